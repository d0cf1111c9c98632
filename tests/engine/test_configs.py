"""Every shipped config loads and builds what it says."""

from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import erq_mm.engine  # noqa: F401
from erq_mm.engine.evaluation import load_config
from erq_mm.nn.structure import find_sites

from ..conftest import ROOT

CONFIGS = sorted(p for folder in ('swin', 'shapes', 'ablation') for p in (ROOT / 'configs' / folder).glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_loads_with_its_bits(path: Path) -> None:
    hook = Config.fromfile(path).default_hooks.get('quantization')
    bits = path.stem.partition('erq-w')[2][:3]
    assert (hook is not None) == (bool(bits) or path.parent.name == 'ablation')
    if bits:
        assert (hook.w_bits, hook.a_bits) == tuple(int(b) for b in bits.split('a'))


def build(name: str) -> nn.Module:
    init_default_scope('mmdet')
    return MODELS.build(load_config(name).model)


def test_inventory_of_swin_t_mask_rcnn() -> None:
    sites, left_float = find_sites(build('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py'), 'all')
    kinds = [site.kind for site in sites]
    assert (kinds.count('linear'), kinds.count('conv'), kinds.count('matmul')) == (55, 17, 24)
    assert [name for name, _ in left_float] == ['roi_head.mask_head.upsample']
    assert sum(site.norm is not None for site in sites) == 12 + 12 + 3


def test_cascade_heads_are_those_of_the_swin_release() -> None:
    head = build(str(ROOT / 'configs/swin/cascade-mask-rcnn_swin-t_coco.py')).roi_head
    assert len(head.bbox_head) == len(head.mask_head) == 3
    for stage, stds in zip(head.bbox_head, ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
        assert len(stage.shared_convs) == 4
        assert len(stage.shared_fcs) == 1
        assert isinstance(stage.shared_convs[0].bn, nn.BatchNorm2d)
        assert stage.fc_reg.out_features == 4 * 80
        assert stage.reg_decoded_bbox
        assert tuple(stage.bbox_coder.stds) == (stds[0], stds[0], stds[1], stds[1])
