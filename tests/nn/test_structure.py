"""Roles by exact structure; what only looks like it is an ordinary layer, and what is not understood stays float."""

import copy

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.nn import QuantLinear, ShiftedWindows, architectures
from erq_mm.nn.architectures import Input, Part
from erq_mm.nn.recognition import type_name
from erq_mm.nn.structure import find_sites

from . import lookalikes
from .swin import make_swin


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = make_swin(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 2))
        self.fc = nn.Linear(8, 4)


def relative_error(model: nn.Module, reference: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        found, wanted = (m(x) for m in (model, reference))
    found, wanted = (y[-1] if isinstance(y, (tuple, list)) else y for y in (found, wanted))
    return float((found - wanted).norm() / wanted.norm())


def test_roles_of_a_swin() -> None:
    sites, left_float = find_sites(Detector(), 'linears')
    roles = {site.name: site for site in sites}
    block = 'backbone.stages.0.blocks.0'
    assert roles['backbone.patch_embed.projection'].roles == ('image',)
    assert roles[f'{block}.attn.w_msa.qkv'].norm == f'{block}.norm1'
    assert roles[f'{block}.attn.w_msa.qkv'].windows == f'{block}.attn'
    assert roles[f'{block}.attn.w_msa.qkv'].is_qkv
    qkv = roles[f'{block}.attn.w_msa.qkv']
    assert (qkv.mixed_into, qkv.heads) == (f'{block}.attn.w_msa.proj', 2)
    assert roles[f'{block}.attn.w_msa.proj'].roles == ('linear_input',)
    assert roles[f'{block}.attn.w_msa.query_key'].roles == ('query', 'key')
    assert roles[f'{block}.attn.w_msa.probability_value'].roles == ('post_softmax', 'value')
    assert (roles[f'{block}.ffn.layers.0.0'].roles, roles[f'{block}.ffn.layers.0.0'].windows) == (('post_norm',), None)
    assert roles[f'{block}.ffn.layers.1'].roles == ('post_gelu',)
    assert roles['backbone.stages.0.downsample.reduction'].norm == 'backbone.stages.0.downsample.norm'
    assert roles['backbone.stages.0.downsample.reduction'].is_merging
    assert roles[f'{block}.ffn.layers.1'].block == block
    assert roles['backbone.patch_embed.projection'].block == 'backbone.patch_embed'
    assert roles['fc'].roles == ('linear_input',)
    assert [name for name, _ in left_float] == ['head.0', 'head.1']


def test_all_takes_convolutions_and_leaves_the_transposed_one() -> None:
    sites, left_float = find_sites(Detector(), 'all')
    assert [site.name for site in sites if site.roles == ('conv_input',)] == ['head.0']
    assert [name for name, _ in left_float] == ['head.1']
    assert 'transposed' in left_float[0][1]


def test_roles_of_a_bare_sequential() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 2))
    assert [site.roles for site in find_sites(model, 'linears')[0]] == [
        ('post_norm',), ('post_gelu',), ('linear_input',),
    ]  # fmt: skip


def test_unknown_scope() -> None:
    with pytest.raises(ValueError, match="scope must be one of .* got 'backbone'"):
        find_sites(Detector(), 'backbone')


@pytest.mark.parametrize('recipe', ['rtn', 'repq', 'erq'])
@pytest.mark.parametrize('make', [
    lambda: nn.Sequential(lookalikes.SwinBlock(), lookalikes.SwinBlock()),
    lambda: nn.Sequential(lookalikes.PatchMerging()),
    lambda: nn.Sequential(lookalikes.WindowAttention(), nn.Linear(32, 8)),
])  # fmt: skip
def test_lookalikes_are_ordinary_layers(make, recipe: str) -> None:
    model, x = make(), torch.randn(6, 16, 32)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-1, 1)
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), recipe, 8, 8)
    assert relative_error(model, reference, x) < 0.03
    assert {layer.role for layer in report.layers} <= {'linear_input', 'post_gelu'}
    reasons = [layer['reason'] for layer in report.float_layers]
    attention = 'PatchMerging' not in str(model)
    assert any('2 products of activations stay float' in reason for reason in reasons) == attention


def shift_unless_one_window(self: nn.Module, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    shift, self.shift_size = self.shift_size, 0 if min(hw_shape) <= self.window_size else self.shift_size
    try:
        return super(type(self), self).forward(query, hw_shape)
    finally:
        self.shift_size = shift


def test_windows_with_a_rule_of_their_own_keep_it() -> None:
    """Attention inside is exactly known and quantized; what cuts the windows is left alone, and so is norm1."""
    from mmdet.models.backbones.swin import ShiftWindowMSA

    model, kind = make_swin(), type('CarefulShift', (ShiftWindowMSA,), {'forward': shift_unless_one_window})
    for module in model.modules():
        if type(module) is ShiftWindowMSA:
            module.__class__ = kind
    reference, sizes = copy.deepcopy(model), [torch.randn(1, 3, 28, 24), torch.randn(2, 3, 60, 100)]
    report = erq_mm.quantize_(model, lambda m: [m(x) for x in sizes], 'rtn', 8, 8)
    assert all(relative_error(model, reference, x) < 0.05 for x in sizes)
    assert sum(isinstance(m, kind) for m in model.modules()) == 4
    assert not any(isinstance(m, ShiftedWindows) for m in model.modules())
    layers = {layer.name: layer for layer in report.layers}
    assert 'stages.0.blocks.0.attn.w_msa.query_key' in layers


class Heads(nn.Module):
    """One prediction layer behind every stage, held in a list and under a name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, predict = nn.Linear(16, 16), nn.Linear(16, 8)
        self.predict, self.last = nn.ModuleList([predict for _ in range(3)]), predict

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.body(x)
        return [layer(x * (1 + i)) for i, layer in enumerate(self.predict)]


def test_a_module_in_several_places_is_one_quantized_module() -> None:
    model, x = Heads(), torch.randn(64, 16)
    report = erq_mm.quantize_(model, lambda m: m(x), 'erq', overrides={'last': {'w_bits': 8}})
    places = [*model.predict, model.last]
    assert all(place is places[0] for place in places) and isinstance(places[0], QuantLinear)
    assert {layer.name: (layer.rows, layer.w_bits) for layer in report.layers} == {
        'body': (64, 4),
        'predict.0': (192, 8),
    }


def test_a_block_in_two_places_is_folded_once() -> None:
    block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
    model, x = nn.Sequential(block, nn.Linear(8, 8), block), torch.randn(100, 8)
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8)
    assert model[0] is model[2]
    assert [layer.role for layer in report.layers] == ['post_norm', 'linear_input']
    assert relative_error(model, reference, x) < 0.03


class TwoReaders(nn.Module):
    """A LayerNorm whose output goes to a layer and past it."""

    def __init__(self, second_place: str) -> None:
        super().__init__()
        self.second_place = second_place
        self.net = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        self.other = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.net[0](3 * x)
        past = {'layer': self.other, 'sum': lambda y: y, 'view': lambda y: y.flip(0)}[self.second_place]
        return self.net[1](normed) + past(normed)


@pytest.mark.parametrize('second_place', ['layer', 'sum', 'view'])
@pytest.mark.parametrize('recipe', ['repq', 'erq'])
def test_a_norm_that_is_read_twice_is_not_folded(recipe: str, second_place: str) -> None:
    model, x = TwoReaders(second_place), torch.randn(100, 8)
    with torch.no_grad():
        model.net[0].weight.copy_(torch.randn(8).exp())
    reference = copy.deepcopy(model)
    erq_mm.quantize_(model, lambda m: m(x), recipe, 8, 8)
    assert torch.equal(model.net[0].weight, reference.net[0].weight)
    assert relative_error(model, reference, x) < 0.03


def test_two_layers_behind_one_norm_are_not_folded() -> None:
    norm = nn.LayerNorm(8)
    model, x = (
        nn.Sequential(nn.Sequential(norm, nn.Linear(8, 8)), nn.Sequential(norm, nn.Linear(8, 8))),
        torch.randn(90, 8),
    )
    reference = copy.deepcopy(model)
    erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8, full_account=False)
    assert relative_error(model, reference, x) < 0.03


class Tied(nn.Module):
    def __init__(self, tie) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(torch.relu(self.first(x))))


def tie_parameters(model: nn.Module) -> None:
    model.second.weight = model.first.weight


def tie_memory(model: nn.Module) -> None:
    model.second.weight.data = model.first.weight.data


def tie_to_the_parent(model: nn.Module) -> None:
    model.table, model.second.weight = model.first.weight, model.first.weight


@pytest.mark.parametrize('tie', [tie_parameters, tie_memory, tie_to_the_parent])
@pytest.mark.parametrize('full_account', [True, False])
def test_tied_weights_stay_float_and_say_with_whom(tie, full_account: bool) -> None:
    model, x = Tied(tie), torch.randn(64, 16)
    before = model.first.weight.clone()
    report = erq_mm.quantize_(model, lambda m: m(x), 'erq', full_account=full_account)
    assert [layer.name for layer in report.layers] == ['third']
    reasons = {layer['name']: layer['reason'] for layer in report.float_layers}
    assert 'shares its weights with' in reasons['first'] and 'second.weight' in reasons['first']
    assert 'first.weight' in reasons['second']
    assert torch.equal(model.first.weight, before) and torch.equal(model.second.weight, before)


def test_a_failed_swap_leaves_the_model_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from erq_mm.nn import swap

    model, x = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 1)), torch.randn(4, 4)
    monkeypatch.setattr(swap, 'QuantConv2d', lambda *_: (_ for _ in ()).throw(RuntimeError('out of memory')))
    with pytest.raises(RuntimeError, match='out of memory'):
        erq_mm.quantize_(model, lambda m: m[0](x), 'rtn', scope='all')
    assert [type(module) for module in model] == [nn.Linear, nn.Conv2d]


def test_overrides_of_what_stays_float_anyway() -> None:
    model, x = Tied(tie_parameters), torch.randn(64, 16)
    with pytest.raises(ValueError, match='matches only layers that stay float, e.g. first: shares its weights'):
        erq_mm.quantize_(model, lambda m: m(x), overrides={'first': {'w_bits': 8}})
    erq_mm.quantize_(model, lambda m: m(x), overrides={'first': 'float'})


class Branches(nn.Module):
    """Three layers behind one LayerNorm, as queries, keys and values that are projected apart."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.norm, self.other = nn.LayerNorm(width), nn.Linear(width, 4)
        self.first, self.second, self.third = (nn.Linear(width, 4, bias=has_bias) for has_bias in (True, False, True))
        with torch.no_grad():
            self.norm.weight.copy_(torch.randn(width).exp())
            self.norm.bias.copy_(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return self.other(x) + self.first(normed) + self.second(normed).sin() * self.third(normed)


@pytest.fixture
def branches(monkeypatch: pytest.MonkeyPatch) -> Branches:
    """A model whose three branches are known."""
    name = type_name(Branches)
    inputs = {path: Input('post_norm', 'norm') for path in ('first', 'second', 'third')}
    monkeypatch.setitem(architectures.KNOWN, name, Part(name, inputs=inputs))
    return Branches()


def quantize_branches(model: Branches, recipe: str = 'repq', **options: object) -> dict[str, str | None]:
    """Quantize at 8 bits; check that the function stays, also where the guard looks; return roles and norms."""
    x, reference = 3 * torch.randn(200, 12), copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), recipe, 8, 8, **options)
    assert relative_error(model, reference, x) < 0.03
    return {layer.name: layer.role for layer in report.layers}


@pytest.mark.parametrize('recipe', ['repq', 'erq'])
def test_a_norm_is_folded_into_all_layers_that_see_it(recipe: str, branches: Branches) -> None:
    gain = branches.norm.weight.clone()
    quantize_branches(branches, recipe)
    assert not torch.equal(branches.norm.weight, gain)
    quantizers = [layer.input_quantizer for layer in (branches.first, branches.second, branches.third)]
    assert len({(float(q.scale), float(q.zero_point)) for q in quantizers}) == 1


@pytest.mark.parametrize('overrides', [{'second': 'float'}, {'third': {'a_bits': 6}}])
def test_layers_behind_one_norm_that_part_keep_it(overrides: dict, branches: Branches) -> None:
    gain = branches.norm.weight.clone()
    quantize_branches(branches, overrides=overrides)
    assert torch.equal(branches.norm.weight, gain)


def test_a_norm_before_a_layer_that_cannot_be_quantized_is_kept(branches: Branches) -> None:
    gain = branches.norm.weight.clone()
    branches.second.register_forward_hook(lambda _module, _args, output: output + 1)
    assert 'second' not in quantize_branches(branches)
    assert torch.equal(branches.norm.weight, gain)


def test_a_norm_that_another_layer_sees_as_well_is_kept(branches: Branches) -> None:
    gain = branches.norm.weight.clone()
    branches.other = nn.Sequential(branches.norm, nn.Linear(12, 4))
    quantize_branches(branches)
    assert torch.equal(branches.norm.weight, gain)


def test_a_layer_behind_a_folded_norm_that_no_row_reached_is_folded_as_well(branches: Branches) -> None:
    """It must fit the norm it will see later."""

    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all = branches

        def forward(self, x: Tensor, is_full: bool) -> Tensor:
            return self.all(x) if is_full else self.all.first(self.all.norm(x))

    model, x = Sometimes(), 3 * torch.randn(200, 12)
    reference = copy.deepcopy(model)
    erq_mm.quantize_(model, lambda m: m(x, False), 'repq', 8, 8)
    with torch.no_grad():
        wanted, found = reference(x, True), model(x, True)
    assert (found - wanted).norm() < 0.03 * wanted.norm()
