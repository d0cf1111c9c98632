"""Balanced queries, keys and values: the function stays, widths are equal, and rounding costs less."""

import pytest
import torch
from torch import Tensor

from erq_mm.core.balance import balancing_scale


def operands() -> Tensor:
    """Queries, keys and values, (rows, 3 x 8); some keys and values are far wider than others."""
    widths = torch.cat([torch.ones(8), torch.logspace(-1, 2, 8), torch.logspace(1, -1, 8)])
    return torch.randn(4000, 24).double() * widths


def test_products_stay_and_queries_are_as_wide_as_keys() -> None:
    x = operands()
    balanced = x / balancing_scale(x, torch.ones(len(x)).double(), 4)
    query, key, value = x.chunk(3, 1)
    query_b, key_b, value_b = balanced.chunk(3, 1)
    torch.testing.assert_close(query_b @ key_b[:50].T, query @ key[:50].T)
    torch.testing.assert_close(query_b.std(0) / key_b.std(0), torch.ones(8).double(), rtol=0.1, atol=0)
    spread = value_b.std(0)
    assert float(spread.max() / spread.min()) < 1.15 < float(value.std(0).max() / value.std(0).min())


@pytest.mark.parametrize('bits', [3, 4, 8])
def test_one_range_costs_less(bits: int) -> None:
    def rounded(x: Tensor) -> Tensor:
        step = 2 * x.abs().max() / (2**bits - 1)
        return torch.round(x / step) * step

    x = operands()
    errors = []
    for y in (x, x / balancing_scale(x, torch.ones(len(x)).double(), bits)):
        query, key = y[:, :8], y[:200, 8:16].T
        errors.append(float((rounded(query) @ rounded(key) - query @ key).square().mean()))
    assert errors[1] < 0.85 * errors[0]


def test_channels_that_are_constant_or_all_zero_are_left_finite() -> None:
    x = operands()
    x[:, 3] = x[:, 20] = 0
    scale = balancing_scale(x, torch.ones(len(x)).double(), 4)
    assert torch.isfinite(scale).all() and (scale > 0).all()
    assert torch.equal(balancing_scale(torch.zeros(5, 6), torch.ones(5), 4), torch.ones(6))
