"""Converted weights give the outputs of the original network."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer

from erq_mm.engine.swin_converter import convert_swin_release

from ..conftest import ROOT
from .release_swin import ReleaseSwin


@pytest.fixture
def pair() -> tuple[ReleaseSwin, SwinTransformer]:
    theirs = ReleaseSwin()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    ours = SwinTransformer(embed_dims=16, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1))
    ours.eval()
    return theirs, ours


@torch.no_grad()
@pytest.mark.parametrize('size', [(84, 116), (60, 64)])
def test_outputs_are_those_of_the_original_layout(pair, size: tuple[int, int]) -> None:
    theirs, ours = pair
    ours.load_state_dict(convert_swin_release(theirs.state_dict()), strict=True)
    image = torch.randn(2, 3, *size)
    for converted, original in zip(ours(image), theirs(image), strict=True):
        torch.testing.assert_close(converted, original, rtol=1e-4, atol=1e-4)


def test_without_the_reordering_outputs_differ(pair) -> None:
    """The test above can fail: names alone are not enough."""
    theirs, ours = pair
    state = convert_swin_release(theirs.state_dict())
    state['stages.0.downsample.reduction.weight'] = theirs.layers[0].downsample.reduction.weight
    ours.load_state_dict(state)
    with torch.no_grad():
        image = torch.randn(1, 3, 56, 56)
        assert not torch.allclose(ours(image)[1], theirs(image)[1], atol=1e-2)


def test_heads_keep_their_names(pair) -> None:
    state = {f'backbone.{k}': v for k, v in pair[0].state_dict().items()}
    state |= {'neck.lateral_convs.0.conv.weight': torch.ones(1), 'roi_head.bbox_head.0.fc_cls.bias': torch.ones(1)}
    converted = convert_swin_release(state)
    assert {'neck.lateral_convs.0.conv.weight', 'roi_head.bbox_head.0.fc_cls.bias'} <= set(converted)
    assert 'backbone.stages.0.blocks.1.ffn.layers.0.0.weight' in converted


def test_other_checkpoints_are_refused(pair) -> None:
    with pytest.raises(ValueError, match='not a checkpoint of the Swin release'):
        convert_swin_release(pair[1].state_dict())


def test_tool_writes_the_checkpoint(pair, tmp_path: Path) -> None:
    torch.save({'state_dict': pair[0].state_dict(), 'meta': {}}, tmp_path / 'release.pth')
    command = [
        sys.executable,
        str(ROOT / 'tools/convert_swin.py'),
        str(tmp_path / 'release.pth'),
        str(tmp_path / 'out.pth'),
    ]
    subprocess.run(command, check=True, capture_output=True)
    pair[1].load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict'])
