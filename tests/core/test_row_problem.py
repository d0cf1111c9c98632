"""The centred ridge against brute-force weighted least squares, and both forms of the metric against each other."""

import pytest
import torch
from torch import Tensor

from erq_mm.core.row_problem import MatrixMetric, RowProblem, RowsMetric

SIZES = [(60, 11, 4), (9, 30, 3)]  # more rows than columns, and fewer


def make(rows: int, columns: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    x = (torch.randn(rows, columns) * torch.logspace(-1, 1, columns) + 2).double()
    return x, torch.randn(rows, outputs).double(), torch.rand(rows).double() + 0.1


@pytest.mark.parametrize('size', SIZES)
def test_correction_equals_weighted_least_squares(size: tuple[int, int, int]) -> None:
    """min sum w ||r - D x - d||^2 + lam ||D||^2 with a free d, as one stacked least-squares problem."""
    x, residual, weights = make(*size)
    problem = RowProblem(x, residual, weights)
    lam, root = problem.damping(0.1), weights.sqrt()[:, None]
    design = torch.cat([x * root, root], 1)
    penalty = torch.cat([lam**0.5 * torch.eye(x.shape[1]).double(), torch.zeros(x.shape[1], 1).double()], 1)
    wanted = torch.linalg.lstsq(
        torch.cat([design, penalty]), torch.cat([residual * root, torch.zeros(x.shape[1], size[2]).double()])
    ).solution
    change = problem.correction(0.1)
    torch.testing.assert_close(change, wanted[:-1].T, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(problem.bias_change(change), wanted[-1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('size', SIZES)
def test_metric_is_the_cost_of_a_change(size: tuple[int, int, int]) -> None:
    x, residual, weights = make(*size)
    problem = RowProblem(x, residual, weights)
    lam, change = problem.damping(0.1), torch.randn(size[2], size[1]).double()
    mean = weights @ x / weights.sum()
    centred = (x - mean) * weights.sqrt()[:, None]
    matrix = (centred.T @ centred + lam * torch.eye(size[1]).double()) / weights.sum()
    metric = problem.metric(0.1)
    assert isinstance(metric, RowsMetric if problem.is_wide else MatrixMetric)
    torch.testing.assert_close(metric.times(change), change @ matrix)
    torch.testing.assert_close(metric.objective(change), (change @ matrix * change).sum(1))
    torch.testing.assert_close(metric.block(2, 7), matrix[2:7, 2:7])
    state = metric.spread(change[:, :5], 0, 5) + metric.spread(change[:, 5:], 5, size[1])
    torch.testing.assert_close(metric.gradient(state, change[:, 3:8], 3, 8), (change @ matrix)[:, 3:8])


@pytest.mark.parametrize('size', SIZES)
def test_error_is_that_of_the_best_bias(size: tuple[int, int, int]) -> None:
    x, residual, weights = make(*size)
    problem, change = RowProblem(x, residual, weights), 0.1 * torch.randn(size[2], size[1]).double()
    left = residual - x @ change.T - problem.bias_change(change)
    assert problem.error(change) == pytest.approx(float((weights @ left.square()).sum() / weights.sum() / size[2]))
    for step in (-0.1, 0.1):
        assert float((weights @ (left + step).square()).sum()) > float((weights @ left.square()).sum())


@pytest.mark.parametrize('size', SIZES)
def test_error_after_the_correction_follows_from_the_sums(size: tuple[int, int, int]) -> None:
    problem = RowProblem(*make(*size))
    change = problem.correction(0.1)
    assert problem.corrected_error(change, 0.1) == pytest.approx(problem.error(change))
    assert problem.error() == pytest.approx(problem.error(torch.zeros_like(change)))


def test_nothing_to_correct_and_constant_inputs() -> None:
    x = torch.randn(40, 6).double()
    assert not RowProblem(x, torch.zeros(40, 3).double()).correction(0.1).any()
    flat = RowProblem(torch.ones(40, 6).double(), torch.randn(40, 3).double())
    assert torch.isfinite(flat.correction(0.1)).all()
    torch.testing.assert_close(flat.bias_change(flat.correction(0.1)), flat.mean_residual, atol=1e-6, rtol=1e-6)


def test_a_solution_that_is_not_finite_is_an_error() -> None:
    residual = torch.zeros(40, 3).double()
    residual[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match='ridge'):
        RowProblem(torch.randn(40, 6).double(), residual).correction(0.1)


@pytest.mark.parametrize('weighted', [False, True])
def test_the_gram_matrix_of_parts_is_that_of_all_rows(weighted: bool) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(40, 7).double() + 3, torch.randn(40, 2).double()
    x[25:] *= -2  # another mean
    weights = torch.rand(40).double() if weighted else torch.ones(40).double()
    parts = [
        RowProblem(x[part], residual[part], weights[part]) for part in (slice(0, 25), slice(25, 38), slice(38, 40))
    ]
    whole = RowProblem(x, residual, weights)
    wanted = whole.gram().clone()
    whole.take_gram(parts)
    torch.testing.assert_close(whole.gram(), wanted)
