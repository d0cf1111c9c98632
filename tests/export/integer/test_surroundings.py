"""Float parts between integer layers compute what they computed, in other kernels."""

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmdet.models.layers.transformer.utils import PatchMerging
from torch import nn

import erq_mm
from erq_mm.export.integer.surroundings import (
    FusedWindowMSA,
    GatheredWindows,
    StridedMerging,
    speed_up_surroundings_,
)
from erq_mm.nn.attention import QuantWindowMSA, ShiftedWindows

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


@torch.no_grad()
@pytest.mark.parametrize('size', [(56, 56), (100, 132), (60, 36), (28, 20)])
def test_gathered_windows_are_the_same_bits(size: tuple[int, int]) -> None:
    """With and without padding and shift, a map smaller than a window, several images, none."""
    model, image = Detector(make_swin()), torch.randn(2, 3, *size)
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 60, 60)), {'type': 'rtn', 'deploy': True}, 7, 8)
    erq_mm.deploy_(model)
    gathered = [m for m in model.modules() if type(m) is GatheredWindows]
    assert len(gathered) == 4 and {m.shift_size for m in gathered} == {0, 3}
    found = model(image)
    for module in gathered:
        module.__class__ = ShiftedWindows
    for ours, theirs in zip(found, model(image), strict=True):
        assert torch.equal(ours, theirs)
    gathered[0].__class__ = GatheredWindows
    tokens = gathered[0].w_msa.embed_dims
    assert gathered[0](torch.zeros(0, 12, tokens), (3, 4)).shape == (0, 12, tokens)


@torch.no_grad()
@pytest.mark.parametrize('part', ['', 'w_msa', 'w_msa.qkv', 'w_msa.proj'])
def test_windows_with_hooks_inside_are_not_gathered(part: str) -> None:
    model = Detector(make_swin())
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 60, 60)), {'type': 'rtn', 'deploy': True}, 7, 8)
    attention, seen = model.backbone.stages[0].blocks[0].attn, []
    attention.get_submodule(part).register_forward_hook(lambda *_: seen.append(1))
    erq_mm.deploy_(model)
    seen.clear()
    model(torch.randn(1, 3, 56, 56))
    assert seen == [1]
    assert sum(type(m) is GatheredWindows for m in model.modules()) == 3


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
