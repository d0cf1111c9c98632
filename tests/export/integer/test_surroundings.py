"""Float parts between integer layers compute what they computed, in other kernels."""

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmdet.models.layers.transformer.utils import PatchMerging
from torch import nn

import erq_mm
from erq_mm.export.integer.surroundings import FusedWindowMSA, StridedMerging, speed_up_surroundings_
from erq_mm.nn.attention import QuantWindowMSA

from ...nn.swin import make_swin
from ...nn.test_attention import Detector

NAMES = [
    'backbone.stages.0.downsample',
    *(f'backbone.stages.{s}.blocks.{b}.attn.w_msa' for s in (0, 1) for b in (0, 1)),
]


def quantized(overrides: dict[str, str]) -> nn.Module:
    model, image = Detector(make_swin()), torch.randn(1, 3, 60, 60)
    erq_mm.quantize_(model, lambda m: m(image), 'rtn', 8, 8, overrides=overrides)
    return model


@torch.no_grad()
@pytest.mark.parametrize('size', [(56, 56), (100, 132), (60, 36)])
def test_swin_with_float_products_is_the_same(size: tuple[int, int]) -> None:
    """Sizes with and without padded windows, odd numbers of patches, several images."""
    model, image = quantized({'*': 'float', '*.patch_embed.projection': {'w_bits': 8}, '*.qkv': {'w_bits': 8}}), None
    image = torch.randn(2, 3, *size)
    expected = model(image)
    assert sorted(speed_up_surroundings_(model)) == sorted(NAMES)
    for ours, theirs in zip(model(image), expected, strict=True):
        # one code of a quantized input may move
        assert float((ours - theirs).norm()) < 1e-3 * float(theirs.norm())
    assert sum(isinstance(m, FusedWindowMSA) for m in model.modules()) == 4
    assert sum(isinstance(m, StridedMerging) for m in model.modules()) == 1
    state = model.state_dict()
    assert (
        not [name for name in state if 'FusedWindowMSA' in name] and 'backbone.stages.0.downsample.norm.weight' in state
    )


def test_quantized_products_stay_as_they_are() -> None:
    model = quantized({})
    assert speed_up_surroundings_(model) == NAMES[:1]
    assert sum(type(m) is QuantWindowMSA for m in model.modules()) == 4


@torch.no_grad()
@pytest.mark.parametrize('padding', ['corner', 'same', 0])
@pytest.mark.parametrize('size', [(6, 8), (7, 9), (1, 1), (5, 2)])
def test_merging_is_mmdets_bit_for_bit(size: tuple[int, int], padding: str | int) -> None:
    if padding == 0 and min(size) < 2:
        pytest.skip('mmdet refuses it')
    merging = PatchMerging(5, 7, padding=padding).eval()
    torch.nn.init.normal_(merging.norm.weight)
    x = torch.randn(3, size[0] * size[1], 5)
    ours, theirs = StridedMerging(merging)(x, size), merging(x, size)
    assert ours[1] == tuple(theirs[1])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


def test_other_mergings_stay() -> None:
    model = nn.ModuleList(
        [PatchMerging(4, 4, kernel_size=3), PatchMerging(4, 4, stride=1), PatchMerging(4, 4, padding=1)]
    )
    assert speed_up_surroundings_(model) == []


def test_a_model_of_float_swin_is_left_alone() -> None:
    model = nn.ModuleList([SwinTransformer(embed_dims=16, depths=(1,), num_heads=(2,), strides=(4,), out_indices=(0,))])
    assert speed_up_surroundings_(model) == []
