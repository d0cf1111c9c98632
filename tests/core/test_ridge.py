"""Solves against the normal equations, and suffix solves against solves of the sub-matrix."""

import pytest
import torch

from erq_mm.core.ridge import DualSystem, PrimalSystem, damping

LAM = 0.7


@pytest.fixture(params=['wide', 'tall'])
def rows(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randn(6, 20).double() if request.param == 'wide' else torch.randn(50, 20).double()


@pytest.fixture(params=[PrimalSystem, DualSystem])
def system(request: pytest.FixtureRequest, rows: torch.Tensor) -> PrimalSystem | DualSystem:
    return PrimalSystem(rows.T @ rows, LAM) if request.param is PrimalSystem else DualSystem(rows, LAM)


def dense(rows: torch.Tensor) -> torch.Tensor:
    return rows.T @ rows + LAM * torch.eye(20).double()


def test_solve(system, rows) -> None:
    rhs = torch.randn(20, 3).double()
    torch.testing.assert_close(system.solve(rhs), torch.linalg.solve(dense(rows), rhs))


def test_ridge_solution_is_stationary(system, rows) -> None:
    """The gradient of ||Y - X D^T||^2 + lam ||D||^2 vanishes."""
    target = torch.randn(len(rows), 3).double()
    solution = system.solve(rows.T @ target).T.requires_grad_()
    objective = (target - rows @ solution.T).square().sum() + LAM * solution.square().sum()
    gradient = torch.autograd.grad(objective, solution)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


@pytest.mark.parametrize(('start', 'stop'), [(0, 10), (10, 15), (18, 19), (0, 20)])
def test_propagated_error_is_eq_17(system, rows, start: int, stop: int) -> None:
    error, matrix = torch.randn(5, stop - start).double(), dense(rows)
    gram = rows.T @ rows
    expected = -error @ gram[start:stop, stop:] @ torch.linalg.inv(matrix[stop:, stop:])
    torch.testing.assert_close(system.propagate(error, start, stop), expected)


@pytest.mark.parametrize(('start', 'stop'), [(0, 10), (10, 15), (18, 19)])
def test_compensated_proxy_is_the_error_left_after_the_ridge_step(system, rows, start: int, stop: int) -> None:
    """d C d^T = min over d_r of the damped objective, by brute force with the minimizer."""
    error = torch.randn(1, stop - start).double()
    proxy = system.proxy(start, stop, compensated=True)
    change = torch.zeros(1, 20).double()
    change[:, start:stop] = error
    change[:, stop:] = system.propagate(error, start, stop)
    objective = (rows @ change.T).square().sum() + LAM * change.square().sum()
    torch.testing.assert_close((error @ proxy @ error.T).squeeze(), objective)


def test_paper_proxy_is_the_gram_block(system, rows) -> None:
    torch.testing.assert_close(system.proxy(3, 9, compensated=False), (rows.T @ rows)[3:9, 3:9])


def test_primal_and_dual_are_the_same_bits_of_mathematics() -> None:
    rows = torch.randn(8, 20).double()
    primal, dual = PrimalSystem(rows.T @ rows, LAM), DualSystem(rows, LAM)
    rhs = torch.randn(20, 4).double()
    torch.testing.assert_close(primal.solve(rhs), dual.solve(rhs))


def test_singular_matrix_says_what_to_do() -> None:
    with pytest.raises(ValueError, match='raise the damping'):
        PrimalSystem(torch.ones(3, 3) * torch.tensor([1.0, 1.0, -1.0]), 0.0)
    with pytest.raises(ValueError, match='raise `lam`'):
        DualSystem(torch.ones(2, 3), 0.0)


def test_lambda_modes() -> None:
    """The released coe = 1e4 means 1e3 on sums; 1 % of a mean diagonal of 50 is 0.5; 0.1 per row of 20 is 2."""
    assert damping('sum', 1e3, 50.0, 20) == 1e3
    assert damping('relative', 0.01, 50.0, 20) == 0.5
    assert damping('mean', 0.1, 50.0, 20) == 2.0
    assert damping('relative', 0.01, 0.0, 0) > 0
    with pytest.raises(ValueError, match="lam_mode must be one of .* got 'median'"):
        damping('median', 1.0, 1.0, 1)
    with pytest.raises(ValueError, match='lam must not be negative, got -1'):
        damping('sum', -1.0, 1.0, 1)
