"""The calibration task of a detector: remembered regions, its own loss without labels, dense predictions."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from erq_mm.calibration.state import differentiable
from erq_mm.engine.detector import DetectorTask
from erq_mm.nn import QuantLinear

from ..integration.test_demo_detectors import NAMES, load


@pytest.fixture(params=[NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def detector(request: pytest.FixtureRequest, tiny_shapes: Path) -> tuple[nn.Module, DetectorTask]:
    model, images = load(request.param, tiny_shapes)
    model.eval()
    return model, DetectorTask(images, with_masks=True, with_labels=True)


@torch.no_grad()
def _rows(model: nn.Module, task: DetectorTask) -> list[torch.Tensor]:
    """The inputs of every linear layer of the heads."""
    seen: list[torch.Tensor] = []
    layers = [m for n, m in model.named_modules() if n.startswith('roi_head') and isinstance(m, (nn.Linear, nn.Conv2d))]
    handles = [layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone())) for layer in layers]
    task(model)
    for handle in handles:
        handle.remove()
    return seen


def test_later_runs_send_the_same_rows_through_the_heads(detector: tuple[nn.Module, DetectorTask]) -> None:
    model, task = detector
    first, again = _rows(model, task), _rows(model, task)
    assert len(first) == len(again) > 0
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.rpn_head.rpn_cls.weight.neg_()  # other proposals, were they not remembered
    for a, b in zip(first, _rows(changed, task), strict=True):
        torch.testing.assert_close(a, b)


def test_loss_has_gradients_everywhere_and_repeats_itself(detector: tuple[nn.Module, DetectorTask]) -> None:
    model, task = detector
    with torch.no_grad():
        task(model)
    before, state = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    first = task.loss(model, 0)
    first.backward()
    reached = {n.partition('.')[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {'backbone', 'neck', 'rpn_head', 'roi_head'} <= reached
    assert float(task.loss(model, 0).detach()) == float(first.detach()) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_loss_needs_labels(detector: tuple[nn.Module, DetectorTask]) -> None:
    model, task = detector
    with pytest.raises(RuntimeError, match='image 0 has no labels: run the float model first'):
        task.loss(model, 0)


def test_divergence_is_zero_at_the_float_model_and_has_gradients_away_from_it(
    detector: tuple[nn.Module, DetectorTask],
) -> None:
    model, task = detector
    with torch.no_grad():
        wanted = task.predict(model, 0)
    assert abs(float(task.divergence(wanted, wanted))) < 1e-6
    wanted = tuple(p.double() for p in wanted)
    moved = [p + 0.3 * torch.randn_like(p) for p in wanted]
    direction = [torch.randn_like(p) for p in wanted]
    for tensor in moved:
        tensor.requires_grad_()
    divergence = task.divergence(tuple(moved), wanted)
    divergence.backward()
    assert float(divergence.detach()) > 0
    along = sum(float((p.grad * d).sum()) for p, d in zip(moved, direction, strict=True) if p.grad is not None)
    with torch.no_grad():
        ends = [
            float(task.divergence(tuple(p + step * d for p, d in zip(moved, direction, strict=True)), wanted))
            for step in (1e-5, -1e-5)
        ]
    assert along == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


def test_an_image_without_proposals_still_has_a_loss(detector: tuple[nn.Module, DetectorTask]) -> None:
    model, task = detector
    model.rpn_head.test_cfg.min_bbox_size = 1e6
    with torch.no_grad():
        task.forward(model, 0)
    with pytest.raises(ValueError, match='gave no proposals'):
        task(model)
    model.rpn_head.test_cfg.min_bbox_size = 0
    assert torch.isfinite(task.loss(model, 0))


@pytest.mark.slow  # the same recipes run every day on a smaller detector's parts, and one of them on the demo's
@pytest.mark.parametrize('recipe', ['aphq', 'brecq', 'mgrq'])
def test_reconstruction_of_a_detector(recipe: str, tiny_shapes: Path) -> None:
    """Blocks with the loss and the predictions of the real detector, heads with remembered regions."""
    import erq_mm

    model, images = load(NAMES[0], tiny_shapes)
    task = DetectorTask(images, with_masks=False, with_labels=recipe == 'brecq')
    short = {'preset': 'fast', 'images': 1, 'iterations': 2, 'layer_iterations': 2}
    report = erq_mm.quantize_(model, task, {'type': recipe} | short)
    assert all(unit['after'] <= unit['before'] for unit in report.reconstruction)
    assert not any('plain squared error' in note for note in report.notes)
    assert sum(isinstance(m, QuantLinear) for m in model.modules()) > 40
    assert not any(m.training for m in model.modules())
    with differentiable(model):
        assert all(torch.isfinite(p).all() for p in task.predict(model, 0))
