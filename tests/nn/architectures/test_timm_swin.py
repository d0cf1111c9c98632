"""timm's Swin, which shifts before it pads: the same function at sizes that pad, also after reparameterization."""

import copy

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.nn import ShiftedWindowBlock
from erq_mm.nn.structure import find_sites

from ..test_attention import reparameterization_error, swapped
from ..timm_models import make_swin, timm

SIZES = [(2, 60, 68), (1, 56, 56), (1, 36, 100), (3, 28, 28)]
FIXED = {
    'masks of a fixed size': dict(img_size=(60, 68), strict_img_size=True),
    'windows that are not square, wide heads': dict(img_size=(60, 68), window_size=(5, 7), head_dim=12),
    'windows larger than the map': dict(img_size=(20, 60), strict_img_size=True),
    'always shifted': dict(img_size=(20, 60), always_partition=True, strict_img_size=True),
}


def images(sizes: list[tuple[int, int, int]]) -> list[torch.Tensor]:
    return [torch.randn(count, 3, height, width) for count, height, width in sizes]


@torch.no_grad()
def check_exact(model: nn.Module, inputs: list[torch.Tensor]) -> None:
    changed, _ = swapped(model, [])
    assert sum(isinstance(module, ShiftedWindowBlock) for module in changed.modules()) == 3
    for x in inputs:
        torch.testing.assert_close(changed(x), model(x), rtol=1e-5, atol=1e-5)
    assert reparameterization_error(model, inputs) <= 1e-5


def test_exact_at_sizes_that_pad_with_masks_made_on_the_way() -> None:
    check_exact(make_swin(), images(SIZES))


@pytest.mark.parametrize('options', FIXED.values(), ids=FIXED)
def test_exact_with_every_option(options: dict) -> None:
    check_exact(make_swin(**options), images([(2, *options['img_size'])]))


def test_zero_padding_as_published_changes_the_model() -> None:
    """Trap: zeros inserted between norm1 and qkv are no outputs of norm1; without padding nothing changes."""
    model = make_swin()
    assert reparameterization_error(model, images([(1, 60, 68)]), exact_pad=False) > 1e-3
    assert reparameterization_error(model, images([(1, 56, 56)]), exact_pad=False) <= 1e-5


def test_roles() -> None:
    sites, left_float = find_sites(make_swin(), 'linears')
    roles = {site.name: site for site in sites}
    block = 'layers.0.blocks.1'
    assert left_float == []
    assert roles['patch_embed.proj'].roles == ('image',)
    qkv = roles[f'{block}.attn.qkv']
    assert (qkv.norm, qkv.windows, qkv.is_qkv, qkv.block) == (f'{block}.norm1', block, True, block)
    assert (roles[f'{block}.mlp.fc1'].norm, roles[f'{block}.mlp.fc1'].windows) == (f'{block}.norm2', None)
    assert roles[f'{block}.mlp.fc2'].roles == ('post_gelu',)
    assert roles[f'{block}.attn.probability_value'].roles == ('post_softmax', 'value')
    merging = roles['layers.1.downsample.reduction']
    assert (merging.norm, merging.is_merging) == ('layers.1.downsample.norm', True)
    assert roles['head.fc'].roles == ('linear_input',)


@pytest.mark.parametrize('left', ['*.attn.*', '*.attn.q*'])
def test_parts_that_are_left_float_fit_the_replaced_ones(left: str) -> None:
    model, x = make_swin(), torch.randn(1, 3, 60, 68)
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8, overrides={left: 'float'})
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.05 * reference(x).norm()
    assert any(layer['reason'] == 'override' for layer in report.float_layers)


def test_a_block_that_is_the_model_itself_is_not_replaced() -> None:
    block, x = make_swin().layers[0].blocks[1], torch.randn(1, 9, 17, 16)
    reference = copy.deepcopy(block)
    report = erq_mm.quantize_(block, lambda m: m(x), 'repq', 8, 8)
    with torch.no_grad():
        assert (block(x) - reference(x)).norm() < 0.05 * reference(x).norm()
    assert 'attn.query_key' in {layer.name for layer in report.layers}


class OwnAttention(timm.models.swin_transformer.WindowAttention):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(2 * x, mask)


def test_a_block_with_another_attention_is_left_alone() -> None:
    model, x = make_swin(), torch.randn(1, 3, 60, 68)
    model.layers[0].blocks[1].attn.__class__ = OwnAttention
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8)
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.05 * reference(x).norm()
    assert not isinstance(model.layers[0].blocks[1], ShiftedWindowBlock)
    assert 'OwnAttention is no plain WindowAttention' in str(report.float_layers)


def test_the_second_version_is_ordinary_layers_with_a_reason() -> None:
    """Its norms follow the layers, and its attention is a cosine."""
    options = dict(window_size=4, img_size=64)
    model, x = make_swin('swinv2_tiny_window8_256', **options), torch.randn(1, 3, 64, 64)
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8)
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.05 * reference(x).norm()
    assert {layer.role for layer in report.layers} == {'linear_input'}
    reasons = {layer['name']: layer['reason'] for layer in report.float_layers}
    assert reasons['layers.0.blocks.0.attn'] == (
        '2 products of activations stay float: the structure of WindowAttention is not known'
    )
