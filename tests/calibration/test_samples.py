"""Samples of sites: rows that really passed, gradients that autograd gives, the same every time."""

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.samples import collect_samples
from erq_mm.calibration.state import Calibration
from erq_mm.calibration.task import CalibrationTask

from .swin_classifier import make_classifier


def swapped(model: nn.Module, task: CalibrationTask, scope: str = 'all', seed: int = 0) -> Calibration:
    """Return a calibration of `model` before any step."""
    model.eval()
    plan = plan_quantization(model, resolve_recipe('rtn'), 4, 4, scope, {})
    return swap_for_calibration(model, plan, task, seed, None)


def matches(rows: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Return the position of every row of `rows` in `among`, -1 if it is not there."""
    exact = 'donot_use_mm_for_euclid_dist'
    distance = torch.cdist(rows.flatten(1).double(), among.flatten(1).double(), compute_mode=exact)
    least, position = distance.min(1)
    return torch.where(least < 1e-4, position, -1)


def make_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))


def test_linear_rows_and_gradients_are_those_of_autograd() -> None:
    """Batches of 10 and 30 rows; everything is kept, so every gradient can be compared."""
    model, batches = make_mlp(), [torch.randn(10, 6), torch.randn(30, 6)]
    task = erq_mm.ClassifierTask(batches)
    hidden = [model[0](x).detach().requires_grad_() for x in batches]
    logits = [model[2](h.relu()) for h in hidden]
    for values in logits:
        values.retain_grad()
        nn.functional.cross_entropy(values, values.argmax(-1)).backward()
    model.zero_grad()
    calibration = swapped(model, task)
    samples = collect_samples(calibration, calibration.sites, rows=64, with_gradients=True)
    x = torch.cat(batches)
    first, last = samples['0'], samples['2']
    position = matches(first.inputs[0], x)
    assert sorted(position.tolist()) == list(range(40))
    torch.testing.assert_close(first.gradients, torch.cat([h.grad for h in hidden])[position])
    torch.testing.assert_close(last.inputs[0], torch.cat(hidden).detach().relu()[matches(first.inputs[0], x)])
    torch.testing.assert_close(last.gradients, torch.cat([v.grad for v in logits])[position])
    assert not any(p.grad is not None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_slot_that_a_later_call_takes_over_has_the_later_gradient() -> None:
    """Two calls per image, as of a shared head, with gradients 1 and 2: 8 slots for 400 rows."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x) + 2 * self.head(-x)

    class SumTask(erq_mm.ClassifierTask):
        def loss(self, model: nn.Module, index: int) -> torch.Tensor:
            return model(self.batches[index]).sum()

    calibration = swapped(Shared(), SumTask([torch.rand(100, 3), torch.rand(100, 3)]))
    sample = collect_samples(calibration, calibration.sites, rows=8, with_gradients=True)['head']
    expected = torch.where(sample.inputs[0][:, :1] > 0, 1.0, 2.0).expand(-1, 2)
    torch.testing.assert_close(sample.gradients, expected)
    assert len(expected.unique()) == 2


def test_what_the_loss_does_not_reach_has_zero_gradients_and_what_is_not_called_no_rows() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.ignored, self.absent = (nn.Linear(6, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.ignored(x)
            return self.used(x)

    calibration = swapped(Branches(), erq_mm.ClassifierTask([torch.randn(20, 6)]))
    samples = collect_samples(calibration, calibration.sites, with_gradients=True)
    assert samples['used'].gradients.any()
    assert samples['ignored'].inputs[0].shape == (20, 6) and not samples['ignored'].gradients.any()
    assert samples['absent'].inputs[0].shape == (0, 6) and samples['absent'].gradients.shape == (0, 4)


@pytest.mark.parametrize('options', [
    dict(kernel_size=3, padding=1), dict(kernel_size=(3, 2), stride=2), dict(kernel_size=3, dilation=2, padding=(2, 1)),
])  # fmt: skip
def test_convolution_rows_are_those_of_the_layer(options: dict) -> None:
    """W x + b of every sampled im2col row is the output there, and so is the gradient's position."""
    model = nn.Sequential(nn.Conv2d(3, 5, **options), nn.ReLU(inplace=True))
    images = [torch.randn(2, 3, 9, 11), torch.randn(1, 3, 12, 8)]

    class WeightedTask(erq_mm.ClassifierTask):
        def loss(self, model: nn.Module, index: int) -> torch.Tensor:
            return model(self.batches[index]).square().sum() / 2  # gradient relu(output)

    calibration = swapped(model, WeightedTask(images))
    state = calibration.sites[0]
    sample = collect_samples(calibration, [state], rows=50, with_gradients=True)[state.name]
    all_rows = torch.cat([part for image in images for part in state.layer.rows(image)])
    assert len(sample.inputs[0]) == 50 and (matches(sample.inputs[0], all_rows) >= 0).all()
    output = nn.functional.linear(sample.inputs[0], state.layer.weight_matrix(), state.layer.bias)
    torch.testing.assert_close(sample.gradients, output.detach().relu(), rtol=1e-4, atol=1e-5)


def test_products_of_window_attention() -> None:
    """Both operands of a pair belong together, and all sites have gradients."""
    model, task = make_classifier()
    calibration = swapped(model, task)
    seen: dict[str, list[torch.Tensor]] = {}
    products = [state for state in calibration.sites if not state.has_weight]
    handles = [
        state.module.register_forward_hook(
            lambda _m, args, _o, name=state.name: seen.setdefault(name, []).append(
                torch.cat([args[0].flatten(-2), args[1].flatten(-2)], -1).flatten(0, -2)
            )
        )
        for state in products
    ]
    calibration.run()
    for handle in handles:
        handle.remove()
    samples = collect_samples(calibration, calibration.sites, pairs=8, with_gradients=True)
    for state in products:
        left, right = samples[state.name].inputs
        assert len(left) == len(right) == 8
        together = torch.cat([left.flatten(1), right.flatten(1)], 1)
        assert (matches(together, torch.cat(seen[state.name])) >= 0).all()
        assert samples[state.name].gradients.shape == (left @ right).shape
    assert all(sample.gradients.any() for sample in samples.values())


def test_deterministic_and_bounded() -> None:
    batches = [torch.randn(500, 6) for _ in range(3)]
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(7)
        calibration = swapped(make_mlp(), erq_mm.ClassifierTask(batches), seed=seed)
        found.append(collect_samples(calibration, calibration.sites, rows=16)['0'].inputs[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].shape == (16, 6)
    position = matches(found[0], torch.cat(batches))
    assert (position >= 0).all() and len(position.unique()) == 16
    assert len((position // 500).unique()) == 3


@pytest.mark.parametrize('options', [dict(rows=0), dict(pairs=2.5), dict(rows=True)])
def test_bad_sizes_are_refused(options: dict) -> None:
    calibration = swapped(make_mlp(), erq_mm.ClassifierTask([torch.randn(4, 6)]))
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f'{name} must be a positive integer, got {value}'):
        collect_samples(calibration, calibration.sites, **options)


def test_a_loss_that_is_not_finite_is_named() -> None:
    class BadTask(erq_mm.ClassifierTask):
        def loss(self, model: nn.Module, index: int) -> torch.Tensor:
            return model(self.batches[index]).sum() * torch.nan

    calibration = swapped(make_mlp(), BadTask([torch.randn(4, 6)]))
    with pytest.raises(FloatingPointError, match='the loss of calibration image 0 is nan'):
        collect_samples(calibration, calibration.sites, with_gradients=True)
