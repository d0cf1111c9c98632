"""The range search against brute force over the published candidates."""

import numpy as np
import pytest
import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.scale_search import search_uniform_range, search_weight_range
from erq_mm.core.spec import WEIGHT_PERCENTILES, QuantSpec


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_weight_range_is_the_best_candidate_of_every_row(bits: int) -> None:
    weight = torch.randn(5, 200) ** 3
    scale, zero_point = search_weight_range(weight, QuantSpec(bits, 'row', percentiles=WEIGHT_PERCENTILES))
    levels = 2**bits - 1
    for row, s, z in zip(weight.numpy(), scale[:, 0].numpy(), zero_point[:, 0].numpy(), strict=True):
        errors = []
        for percentile in WEIGHT_PERCENTILES:
            low, high = min(np.quantile(row, 1 - percentile), 0), max(np.quantile(row, percentile), 0)
            delta = (high - low) / levels
            zero = np.round(-low / delta)
            quantized = (np.clip(np.round(row / delta) + zero, 0, levels) - zero) * delta
            errors.append(((quantized - row) ** 2).sum())
        found = (np.clip(np.round(row / s) + z, 0, levels) - z) * s
        assert ((found - row) ** 2).sum() <= min(errors) * (1 + 1e-3)


def test_rows_of_zeros_and_constants_have_a_usable_scale() -> None:
    weight = torch.stack([torch.zeros(6), torch.full((6,), 0.3), torch.randn(6)])
    scale, zero_point = search_weight_range(weight, QuantSpec(4, 'row', percentiles=(1.0,)))
    assert (scale > 0).all()
    codes = (torch.round(weight / scale) + zero_point).clamp(0, 15)
    torch.testing.assert_close(((codes - zero_point) * scale)[:2], weight[:2])


def test_more_values_pooled_over_calls_widen_the_range() -> None:
    """The range is fitted to all calls, not to the first (RPN levels, cascade stages)."""
    first, second = torch.randn(1, 5000), torch.randn(1, 5000) * 20
    alone, pooled = Histogram(), Histogram()
    alone.update(first)
    pooled.update(first)
    pooled.update(second)
    spec = QuantSpec(8)
    assert float(search_uniform_range(pooled, spec, contains_zero=True)[0]) > 5 * float(
        search_uniform_range(alone, spec, contains_zero=True)[0]
    )
