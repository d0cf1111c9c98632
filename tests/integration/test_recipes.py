"""Every recipe on the trained detectors: both scopes, both detectors, and what the hook makes of its needs."""

import itertools
from pathlib import Path

import pytest
import torch

import erq_mm
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.steps import needs
from erq_mm.core.quantizers import Quantizer
from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.hook import ERQHook

from ..calibration.small_recipes import SMALL_RECIPES
from .test_demo_detectors import NAMES, load

# the heavier ones run every day on smaller models elsewhere
EVERY_DAY = [('erq_tpami', 1, 'linears'), ('qdrop', 0, 'linears')]
CASES = [
    case if case in EVERY_DAY else pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(SMALL_RECIPES, (0, 1), ('linears', 'all'))
]


@pytest.mark.parametrize(('name', 'detector', 'scope'), CASES)
def test_quantizes_every_layer_and_leaves_no_trace(name: str, detector: int, scope: str, tiny_shapes: Path) -> None:
    model, images = load(NAMES[detector], tiny_shapes)
    recipe = SMALL_RECIPES[name]
    buffers = {key: value.clone() for key, value in model.state_dict().items() if 'running_' in key}
    task = DetectorTask(images, scope == 'all', with_labels='loss' in needs(resolve_recipe(recipe)))
    report = erq_mm.quantize_(model, task, recipe, 8, 8, scope)
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer)]
    assert quantizers and all(q.is_active and q.learner is None for q in quantizers)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(buffers[key], value) for key, value in model.state_dict().items() if 'running_' in key)
    assert all(layer.a_bits == 8 or layer.role == 'image' for layer in report.layers)
    wanted, found = _scores(images, detector, tiny_shapes), _predictions(model, task)
    error = sum((a - b).square().sum() for a, b in zip(found, wanted, strict=True))
    assert error < 0.05 * sum(b.square().sum() for b in wanted)


def _scores(images: list[dict], detector: int, data: Path) -> list[torch.Tensor]:
    model, _ = load(NAMES[detector], data)
    model.eval()
    return _predictions(model, DetectorTask(images, False))


@torch.no_grad()
def _predictions(model: torch.nn.Module, task: DetectorTask) -> list[torch.Tensor]:
    return [tensor for index in range(len(task)) for tensor in task.predict(model, index)]


def test_the_hook_takes_as_many_images_as_the_recipe_needs() -> None:
    assert ERQHook(recipe='erq').quantization.calibration.num_images == 1
    assert ERQHook(recipe='qdrop_fast').quantization.calibration.num_images == 8
    assert ERQHook(recipe='qdrop', calibration=dict(seed=3)).quantization.calibration.num_images == 256
    assert ERQHook(recipe='qdrop_fast', calibration=dict(num_images=20)).quantization.calibration.num_images == 20
    with pytest.raises(
        ValueError, match=r"'qdrop' asks for at least 8 calibration images, calibration gives 2: set .*"
    ):
        ERQHook(recipe='qdrop_fast', calibration=dict(num_images=2))
    with pytest.raises(ValueError, match="'brecq' asks for at least 256 calibration images, calibration gives 1"):
        ERQHook(recipe='brecq', calibration=dict(image_ids=[7]))


def test_a_detector_without_training_settings_has_no_loss(tiny_shapes: Path) -> None:
    model, images = load(NAMES[0], tiny_shapes)
    model.train_cfg = None
    task = DetectorTask(images, False, with_labels=True)
    with pytest.raises(ValueError, match="recipe 'ptq4vit' needs the loss of the model.* whose config has a train_cfg"):
        erq_mm.quantize_(model, task, 'ptq4vit')
