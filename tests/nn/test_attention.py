"""The replaced attention is mmdet's, to the bit, at sizes that pad and shift; reparameterization keeps the outputs."""

import copy

import pytest
import torch
from torch import nn

from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import repq, resolve_recipe
from erq_mm.calibration.steps import step_of, step_options
from erq_mm.nn import ShiftedWindows, attention

from .swin import make_swin

SIZES = [(2, 100, 132), (1, 28, 28), (1, 57, 203), (3, 64, 36)]


class Detector(nn.Module):
    """Gives the backbone a name, as detectors do."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.backbone(x)


def swapped(model: nn.Module, images: list[torch.Tensor], recipe: str = 'repq'):
    model = copy.deepcopy(model)
    plan = plan_quantization(model, resolve_recipe(recipe), 4, 4, 'linears', {})
    return model, swap_for_calibration(model, plan, lambda m: [m(x) for x in images], 0, None)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('windows_per_chunk', [1, 5, 64])
@torch.no_grad()
def test_swapped_model_is_the_float_model(size, windows_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, 'WINDOWS_PER_CHUNK', windows_per_chunk)
    model, x = Detector(make_swin()), torch.randn(size[0], 3, *size[1:])
    for ours, theirs in zip(swapped(model, [])[0](x), model(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def reparameterization_error(model: nn.Module, images: list[torch.Tensor], **options: bool) -> float:
    changed, calibration = swapped(model, images)
    for step in repq(**options).steps[:2]:
        step_of(step).run(calibration, **step_options(step))
    differences = [
        float((ours - theirs).abs().max() / theirs.abs().max())
        for x in images
        for ours, theirs in zip(changed(x), model(x), strict=True)
    ]
    return max(differences)


def test_reparameterization_is_exact_under_window_padding() -> None:
    model, images = Detector(make_swin()), [torch.randn(n, 3, h, w) for n, h, w in SIZES]
    assert reparameterization_error(model, images) <= 1e-5
    assert reparameterization_error(model, images, integer_zero_point=False) <= 1e-5


def test_zero_padding_as_published_changes_the_model() -> None:
    """The switch does what it says; without padding it changes nothing."""
    model = Detector(make_swin())
    assert reparameterization_error(model, [torch.randn(1, 3, 100, 132)], exact_pad=False) > 1e-3
    assert reparameterization_error(model, [torch.randn(1, 3, 56, 56)], exact_pad=False) <= 1e-5


def test_patch_merging_gets_a_bias_and_keeps_its_name() -> None:
    model = Detector(make_swin())
    changed, _ = swapped(model, [])
    assert model.backbone.stages[0].downsample.reduction.bias is None
    assert changed.state_dict()['backbone.stages.0.downsample.reduction.bias'].shape == (64,)
    assert set(model.state_dict()) <= set(changed.state_dict())


def test_order_of_modules_is_stable() -> None:
    model = Detector(make_swin())
    names = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    changed, calibration = swapped(model, [])
    assert [state.name for state in calibration.layers()] == names
    assert sum(isinstance(m, ShiftedWindows) for m in changed.modules()) == 4
