"""A two-stage detector on a GPU: calibration, its own loss, and what that leaves of the user's random numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

import erq_mm
from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.evaluation import load_config
from erq_mm.engine.objectives import detector_loss

from ..calibration.small_recipes import small
from ..conftest import ROOT
from .logical_device import LogicalDevice


def make_detector() -> tuple[nn.Module, list[dict[str, Any]]]:
    """Return the demo's Mask R-CNN with one block a stage, and an image of noise."""
    init_default_scope('mmdet')
    config = load_config(str(ROOT / 'configs/shapes/mask-rcnn_swin-mini_shapes.py'))
    config.model.backbone.update(depths=(1, 1, 1, 1), init_cfg=None)
    config.model.test_cfg.rpn.update(nms_pre=20, max_per_img=10)
    config.model.train_cfg.rpn_proposal.update(nms_pre=20, max_per_img=10)
    config.model.train_cfg.rcnn.sampler.update(num=16)
    model = MODELS.build(config.model)
    size = (64, 96)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0))
    return model.eval(), [{'inputs': torch.randint(256, (3, *size), dtype=torch.uint8), 'data_samples': sample}]


def test_quantizes_a_detector(device: torch.device) -> None:
    """With its own loss, and with its dense predictions."""
    recipe = small('brecq', global_weight=0.1, iterations=1, layer_iterations=1, outside='none')
    model, images = make_detector()
    task = DetectorTask(images, with_masks=True, with_labels=True)
    erq_mm.quantize_(model.to(device), task, recipe, 8, 8, 'all')
    assert {tensor.device for tensor in model.state_dict().values()} == {device}


@pytest.mark.parametrize('count', [0, 2])
def test_the_loss_leaves_the_users_random_numbers_alone(count: int) -> None:
    """Those of the CPU, of NumPy and of every GPU; the loss itself depends on its seed alone."""
    with LogicalDevice(devices=2):
        model, images = make_detector()
        model.to('cuda')
        data, found, losses = model.data_preprocessor(pseudo_collate(images), False), _detections(count), []
        for user_seed in (1, 2):
            _seed_everything(user_seed)
            before = _random_states()
            losses.append(float(detector_loss(model, data, found, seed=7).detach()))
            assert all(torch.equal(old, new) for old, new in zip(before, _random_states(), strict=True))
        assert losses[0] == losses[1] > 0


def test_a_loss_that_fails_leaves_them_alone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = make_detector()
    monkeypatch.setattr(type(model), 'loss', lambda *_: 1 / 0)
    data, before = model.data_preprocessor(pseudo_collate(images), False), _random_states()
    with pytest.raises(ZeroDivisionError):
        detector_loss(model, data, InstanceData(), seed=7)
    assert all(torch.equal(old, new) for old, new in zip(before, _random_states(), strict=True))


def _seed_everything(seed: int) -> None:
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    for index, generator in enumerate(torch.cuda.default_generators):
        generator.manual_seed(seed + index)


def _detections(count: int) -> InstanceData:
    if not count:
        return InstanceData()  # no proposal was left
    boxes = torch.tensor([[4.0, 4, 40, 50], [30, 10, 90, 60]], device='cuda')
    return InstanceData(
        bboxes=boxes,
        labels=torch.tensor([0, 1], device='cuda'),
        scores=torch.tensor([0.9, 0.8], device='cuda'),
        masks=torch.ones(2, 64, 96, dtype=torch.bool, device='cuda'),
    )


def _random_states() -> list[Any]:
    gpus = [torch.cuda.get_rng_state(f'cuda:{index}') for index in range(torch.cuda.device_count())]
    return [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64)), *gpus]
