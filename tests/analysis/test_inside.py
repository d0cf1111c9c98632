"""Error reductions, the rounding proxy and channel distributions."""

import pytest
import torch
from torch import nn

from erq_mm.analysis.distributions import channel_quantiles, range_spread
from erq_mm.analysis.error_ratios import error_reductions
from erq_mm.analysis.proxy import compare_proxy, gaussian, random_rounding_errors
from erq_mm.analysis.recording import record_inputs


def report(**layers: dict[str, float]) -> dict:
    return {'layers': [{'name': name, 'output_mse': errors} for name, errors in layers.items()]}


def test_error_reductions_by_hand() -> None:
    base = report(a={'activation': 1.0, 'fit_weights': 4.0}, b={'activation': 1.0, 'fit_weights': 2.0}, c={})
    reports = {
        'Aqer': report(a={'activation': 1.0, 'aqer': 0.75, 'fit_weights': 3.0}, b={'activation': 1.0}, c={}),
        'Rounding': report(a={'activation': 1.0, 'wqer': 3.0}, b={'activation': 1.0, 'wqer': 2.5}, c={}),
        'ERQ': report(a={'activation': 1.0, 'aqer': 0.75, 'wqer': 1.0}, b={'fit_weights': 2.0}, c={}),
    }
    found = error_reductions(reports, base)
    assert found == {'Aqer': {'a': 0.25}, 'Rounding': {'a': 0.25, 'b': -0.25}, 'ERQ': {'a': 0.75, 'b': 0.0}}


def test_proxy_is_the_error_on_its_own_rows() -> None:
    """d (mu mu^T + Sigma) d^T = mean (x d)^2 for any rows; on other rows it is not."""
    rows = torch.rand(200, 12).square() * 3 - 1  # skewed and off-centre, not Gaussian at all
    trials = compare_proxy(torch.randn(8, 12), rows, rows[:20] * 2, bits=4, trials=50)
    torch.testing.assert_close(trials.proxy, trials.calibration_error, rtol=1e-10, atol=0)
    assert (trials.other_error / trials.proxy - 1).abs().median() > 0.1


def test_gaussian_by_hand() -> None:
    mean, covariance = gaussian(torch.tensor([[0.0, 2.0], [2.0, 0.0], [1.0, 4.0]]))
    torch.testing.assert_close(mean, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(covariance, torch.tensor([[2 / 3, -2 / 3], [-2 / 3, 8 / 3]]))


def test_random_roundings_land_on_a_neighbour() -> None:
    """Rounded weights are multiples of the row's scale, less than one scale away; half or more are the nearest."""
    weight = torch.randn(1, 400)
    errors = random_rounding_errors(weight, bits=3, trials=6, seed=0)
    scale = (weight.max() - weight.min()) / 7
    multiples = (weight + errors) / scale
    torch.testing.assert_close(multiples, multiples.round(), atol=1e-4, rtol=0)
    assert (errors.abs() <= scale * 1.0001).all()
    nearest = (errors.abs() <= scale / 2).float().mean(1)
    assert (nearest > 0.45).all() and nearest.min() < 0.9
    assert torch.equal(errors, random_rounding_errors(weight, bits=3, trials=6, seed=0))


def test_channel_quantiles_and_spread_by_hand() -> None:
    rows = torch.stack([torch.arange(101.0), torch.arange(101.0) / 10, torch.arange(101.0) / 10], dim=1)
    quantiles = channel_quantiles(rows)
    torch.testing.assert_close(quantiles[:, 0], torch.tensor([0.0, 1.0, 25.0, 50.0, 75.0, 99.0, 100.0]))
    assert range_spread(quantiles) == pytest.approx(10.0)


def test_inputs_are_recorded_from_all_calls_and_hooks_are_gone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    x = torch.randn(5, 2, 3)
    recorded = record_inputs(model, ['0'], lambda m: [m(x), m(2 * x)])
    torch.testing.assert_close(recorded['0'], torch.cat([x, 2 * x]).reshape(-1, 3))
    assert record_inputs(model, ['0'], lambda m: m(x), rows_per_call=4)['0'].shape == (4, 3)
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match='did not reach'):
        record_inputs(model, ['1'], lambda m: m[0](x))
