"""Histograms against exact quantiles, with the documented bound."""

import pytest
import torch

from erq_mm.core.histogram import Histogram


def test_quantiles_are_within_one_bin() -> None:
    batches = [torch.randn(20_000) * scale for scale in (0.1, 3.0, 0.5)]
    histogram = Histogram(num_bins=4096)
    for batch in batches:
        histogram.update(batch[None])
    values = torch.cat(batches).double().sort().values
    bound = 2 * float(values[-1] - values[0]) / 4096
    for fraction in (0.001, 0.1, 0.5, 0.97, 0.9999):
        exact = values[round(fraction * (len(values) - 1))]
        assert abs(float(histogram.quantile(fraction)) - float(exact)) <= bound
    assert float(histogram.quantile(1.0)) == float(values[-1].float())
    assert float(histogram.quantile(0.0)) == float(values[0].float())


def test_every_value_is_counted_whatever_the_order() -> None:
    batches = [torch.randn(1000) + shift for shift in (0, 50, -200, 3)]
    for order in (batches, batches[::-1]):
        histogram = Histogram(num_bins=256)
        for batch in order:
            histogram.update(batch[None])
        assert float(histogram.counts.sum()) == 4000


def test_channels_are_independent() -> None:
    x = torch.randn(3, 5000) * torch.tensor([[0.01], [1.0], [100.0]])
    together = Histogram(3, num_bins=1024)
    together.update(x[:, :2000])
    together.update(x[:, 2000:])
    spread = x.amax(1) - x.amin(1)
    exact = torch.quantile(x, 0.99, dim=1)
    assert ((together.quantile(0.99) - exact).abs() <= 2 * spread / 1024 + spread * 1e-3).all()


def test_empty_update_changes_nothing() -> None:
    histogram = Histogram()
    histogram.update(torch.zeros(1, 0))
    assert histogram.is_empty


def test_a_constant_and_then_a_range() -> None:
    histogram = Histogram()
    histogram.update(torch.full((1, 10), 5.0))
    histogram.update(torch.linspace(-100, 100, 1000)[None])
    assert float(histogram.counts.sum()) == 1010
    assert float(histogram.quantile(1.0)) == 100


@pytest.mark.parametrize(('value', 'name'), [(float('nan'), 'NaN'), (float('inf'), 'infinity')])
def test_values_that_are_not_finite_are_refused(value: float, name: str) -> None:
    with pytest.raises(FloatingPointError, match=name):
        Histogram().update(torch.tensor([[0.0, value]]))
