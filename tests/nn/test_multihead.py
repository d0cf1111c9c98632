"""`nn.MultiheadAttention` taken apart: the same function with every kind of input, and really quantized."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.core.spec import QuantSpec
from erq_mm.nn import QuantMatMul, QuantMultiheadAttention
from erq_mm.nn.structure import find_sites

EMBED, HEADS, QUERIES, KEYS = 24, 4, 5, 7


def taken_apart(attention: nn.MultiheadAttention) -> QuantMultiheadAttention:
    specs = QuantSpec(8), QuantSpec(8)
    return QuantMultiheadAttention(attention, QuantMatMul(*specs), QuantMatMul(*specs))


OPTIONS = [dict(), dict(bias=False), dict(kdim=10, vdim=6), dict(batch_first=True), dict(dropout=0.3)]
MASKS = {
    'none': lambda: {},
    'bool': lambda: {'attn_mask': torch.rand(QUERIES, KEYS) > 0.6},
    'float': lambda: {'attn_mask': torch.randn(QUERIES, KEYS)},
    'per head': lambda: {'attn_mask': torch.rand(3 * HEADS, QUERIES, KEYS) > 0.6},
    'padding': lambda: {'key_padding_mask': torch.arange(KEYS)[None] > torch.tensor([[6], [3], [4]])},
    'both': lambda: MASKS['bool']() | MASKS['padding'](),
}


@pytest.mark.parametrize(('options', 'mask', 'need_weights'), itertools.product(OPTIONS, MASKS, (True, False)))
def test_same_function(options: dict, mask: str, need_weights: bool) -> None:
    attention = nn.MultiheadAttention(EMBED, HEADS, **options)
    attention.train(False)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    query, key, value = (
        torch.randn(3, n, width)
        for n, width in ((QUERIES, EMBED), (KEYS, options.get('kdim', EMBED)), (KEYS, options.get('vdim', EMBED)))
    )
    masks = MASKS[mask]()
    if 'attn_mask' in masks and masks['attn_mask'].dtype == torch.bool:
        masks['attn_mask'][..., 0] = False  # the original gives NaN where nothing may be seen
    inputs = (
        (query, key, value) if options.get('batch_first') else tuple(x.transpose(0, 1) for x in (query, key, value))
    )
    with torch.no_grad():
        wanted = attention(*inputs, **masks, need_weights=need_weights)
        found = taken_apart(attention)(*inputs, **masks, need_weights=need_weights)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('average', [True, False])
def test_one_sequence_without_a_batch(average: bool) -> None:
    attention = nn.MultiheadAttention(EMBED, HEADS)
    attention.train(False)
    query, key = torch.randn(QUERIES, EMBED), torch.randn(KEYS, EMBED)
    options = {'key_padding_mask': torch.arange(KEYS) > 4, 'average_attn_weights': average}
    with torch.no_grad():
        torch.testing.assert_close(
            taken_apart(attention)(query, key, key, **options), attention(query, key, key, **options)
        )


def test_a_query_that_sees_nothing_gets_zeros_where_the_original_kernel_does() -> None:
    attention = nn.MultiheadAttention(EMBED, HEADS, batch_first=True)
    attention.train(False)
    mask = torch.zeros(QUERIES, KEYS, dtype=torch.bool)
    mask[2] = True
    x = torch.randn(2, QUERIES, EMBED), torch.randn(2, KEYS, EMBED), torch.randn(2, KEYS, EMBED)
    with torch.no_grad():
        wanted, _ = attention(*x, attn_mask=mask, need_weights=False)
        found, _ = taken_apart(attention)(*x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(found, wanted, equal_nan=True)


class Decoder(nn.Module):
    """Self attention whose queries and keys carry positions, as in DETR."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(32, 4, batch_first=True, **options), nn.Linear(32, 8)
        self.position = nn.Embedding(20, 32)

    def forward(self, x: Tensor) -> Tensor:
        placed = x + self.position.weight
        return self.out(x + self.attention(placed, placed, x)[0])


@pytest.mark.parametrize(
    'recipe',
    ['rtn', 'repq', 'erq', {'type': 'qdrop', 'preset': 'fast', 'iterations': 2, 'layer_iterations': 2, 'images': 1}],
)
def test_it_is_really_quantized(recipe: object) -> None:
    model, x = Decoder(), torch.randn(4, 20, 32)
    model.train(False)
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, erq_mm.ClassifierTask([x]), recipe, 8, 8)
    names = [layer.name for layer in report.layers]
    assert names == [
        *(f'attention.{n}' for n in ('query_key', 'probability_value', 'q_proj', 'k_proj', 'v_proj', 'out_proj')),
        'out',
    ]
    assert all(layer.a_bits == 8 for layer in report.layers)
    assert [layer['name'] for layer in report.float_layers] == ['position']
    assert 'looked up or added' in report.float_layers[0]['reason']
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.02 * reference(x).norm()
    for layer in report.layers:
        if layer.kind == 'linear':
            weight = model.get_submodule(layer.name)
            steps = weight.weight / weight.weight_scale
            torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize('options', [dict(add_bias_kv=True), dict(add_zero_attn=True)])
def test_other_kinds_stay_float_with_a_reason(options: dict) -> None:
    model, x = Decoder(**options), torch.randn(4, 20, 32)
    model.train(False)
    report = erq_mm.quantize_(model, lambda m: m(x), 'erq')
    assert isinstance(model.attention, nn.MultiheadAttention)
    assert [layer.name for layer in report.layers] == ['out']
    reasons = {layer['name']: layer['reason'] for layer in report.float_layers}
    assert 'fused attention' in reasons['attention.in_proj_weight']
    assert 'used without a call of the layer, by attention (MultiheadAttention)' in reasons['attention.out_proj']


def test_an_encoder_layer_whose_fast_path_reads_the_weights_stays_float() -> None:
    """`nn.TransformerEncoderLayer` hands all its weights to one kernel when it is evaluated."""
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 4))
    model.train(False)
    reference, x = copy.deepcopy(model), torch.randn(2, 6, 16)
    report = erq_mm.quantize_(model, lambda m: m(x), 'erq', 8, 8)
    assert [layer.name for layer in report.layers] == ['1']
    assert all(
        'TransformerEncoderLayer' in layer['reason']
        for layer in report.float_layers
        if layer['name'] != '0.self_attn.in_proj_weight'
    )
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.02 * reference(x).norm()


def test_without_a_forward_to_look_at_it_is_taken_apart_as_well() -> None:
    sites, left_float = find_sites(Decoder(), 'linears')
    assert [site.name for site in sites if site.kind == 'linear'][:4] == [
        f'attention.{n}' for n in ('q_proj', 'k_proj', 'v_proj', 'out_proj')
    ]
    assert left_float == []
