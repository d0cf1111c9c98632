"""The check that a model still is what quantization made of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.engine.installed import InstalledModel


@pytest.fixture
def small() -> nn.Module:
    """A small quantized model."""
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    x = torch.randn(64, 8)
    erq_mm.quantize_(model, lambda m: m(x), 'erq')
    return model


def test_an_unchanged_model_passes(small: nn.Module) -> None:
    installed = InstalledModel(small)
    small(torch.randn(5, 8))
    installed.check(small)


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('1.weight', lambda t: t.mul_(1.001)),
        ('1.weight', lambda t: t[0].copy_(t[1])),  # from grid to grid
        ('0.weight', lambda t: t.add_(1e-6)),  # a LayerNorm that reparameterization changed
        ('3.bias', lambda t: t.neg_()),
        ('3.weight_scale', lambda t: t.mul_(2)),
        ('1.input_quantizer.zero_point', lambda t: t.add_(1)),
    ],
)
def test_a_change_is_named(name: str, change: Callable[[torch.Tensor], Any], small: nn.Module) -> None:
    installed = InstalledModel(small)
    change(small.state_dict()[name])
    with pytest.raises(RuntimeError, match=name):
        installed.check(small)


def test_weights_off_their_grid_are_found_even_if_nothing_changed_since(small: nn.Module) -> None:
    with torch.no_grad():
        small[1].weight[0, 0] += 0.25 * small[1].weight_scale[0, 0]
    with pytest.raises(RuntimeError, match=r'up to 0.25 steps off their grid: 1.weight'):
        InstalledModel(small).check(small)


def test_another_model_is_not_the_one_quantized(small: nn.Module) -> None:
    installed = InstalledModel(small)
    with pytest.raises(RuntimeError, match='not what quantization made of them'):
        installed.check(nn.Sequential(nn.Linear(8, 4)))
