"""Aqer: optimality, and what it may never do."""

import pytest
import torch

from erq_mm.core.activation_error import correct_activation_error, corrected_mse
from erq_mm.core.ridge import damping
from erq_mm.core.statistics import GramStats, RowStats

from .layer_problem import make_problem


def corrected(problem, kind=GramStats, lam: float = 0.01):
    stats = problem.stats(kind)
    absolute = damping('relative', lam, stats.mean_energy(), stats.count)
    return correct_activation_error(stats, stats.system(absolute)), stats, absolute


@pytest.mark.parametrize('kind', [GramStats, RowStats])
def test_equals_least_squares_on_explicit_rows(kind: type) -> None:
    """min ||W x - (W + dW) x_q - db||^2 + lam ||[dW, db]||^2, by augmented least squares."""
    problem = make_problem()
    change, _, lam = corrected(problem, kind)
    residual = (problem.x - problem.x_q) @ problem.weight.T
    design = torch.cat([problem.augmented, lam**0.5 * torch.eye(11).double()])
    target = torch.cat([residual, torch.zeros(11, 4).double()])
    torch.testing.assert_close(change, torch.linalg.lstsq(design, target).solution.T)


@pytest.mark.parametrize('kind', [GramStats, RowStats])
def test_reported_error_is_that_of_the_rows(kind: type) -> None:
    problem = make_problem()
    change, stats, lam = corrected(problem, kind)
    assert corrected_mse(stats, change, lam) == pytest.approx(float(problem.output_error(change)))


@pytest.mark.parametrize('kind', [GramStats, RowStats])
@pytest.mark.parametrize('lam', [1e-4, 0.01, 10.0])
@pytest.mark.parametrize('rows', [1, 7, 200])
def test_never_raises_the_output_error(kind: type, lam: float, rows: int) -> None:
    for _ in range(5):
        problem = make_problem(rows=rows)
        change, *_ = corrected(problem, kind, lam)
        assert problem.output_error(change) <= problem.output_error(torch.zeros_like(change)) + 1e-12


def test_without_activation_error_nothing_changes() -> None:
    problem = make_problem()
    problem.x_q = problem.x.clone()
    change, *_ = corrected(problem)
    assert not change.any()


def test_a_constant_shift_of_the_inputs_goes_to_the_bias() -> None:
    """x_q = x + 0.5 everywhere: db = -0.5 W 1 and dW = 0 solve it exactly."""
    problem = make_problem(rows=4000)
    problem.x_q = problem.x + 0.5
    change, *_ = corrected(problem, lam=1e-9)
    torch.testing.assert_close(change[:, -1], -0.5 * problem.weight.sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(change[:, :-1], torch.zeros(4, 10).double(), rtol=0, atol=1e-4)


def test_constant_and_zero_inputs() -> None:
    problem = make_problem()
    for value in (0.0, 3.0):
        problem.x = torch.full_like(problem.x, value)
        problem.x_q = torch.full_like(problem.x, round(value))
        change, *_ = corrected(problem)
        assert torch.isfinite(change).all()
