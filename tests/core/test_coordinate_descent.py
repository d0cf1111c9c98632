"""Descent and refits: a slow reference, objectives that never rise, and codes that cannot be improved singly."""

import pytest
import torch
from torch import Tensor

from erq_mm.core.code_search import search_codes
from erq_mm.core.coordinate_descent import coordinate_descent, refit_scale, row_objective
from erq_mm.core.gptq import gptq
from erq_mm.core.row_gptq import gptq_on_rows
from erq_mm.core.row_problem import MatrixMetric, RowProblem
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import QuantizedWeight, fit_weight_grid, round_to_nearest

SPEC = QuantSpec(3, 'row')
SIZES = [(80, 13), (9, 30), (200, 150)]  # the last one has columns beyond one block


def make(rows: int, columns: int, outputs: int = 4) -> tuple[RowProblem, Tensor]:
    x = (torch.randn(rows, columns) @ (torch.eye(columns) + 0.3 * torch.randn(columns, columns))).double()
    return RowProblem(x, torch.zeros(rows, outputs).double()), torch.randn(outputs, columns).double()


def nearest(weight: Tensor, spec: QuantSpec = SPEC) -> QuantizedWeight:
    return round_to_nearest(weight, None, fit_weight_grid(weight, spec))


def slow_descent(quantized: QuantizedWeight, target: Tensor, matrix: Tensor) -> Tensor:
    """Try every code of every column in turn, the objective written out."""
    codes = quantized.codes.clone()
    for row in range(len(target)):
        for column in range(target.shape[1]):
            costs = []
            for code in range(quantized.grid.max_code + 1):
                codes[row, column] = code
                change = (codes[row] - quantized.grid.zero_point[row]) * quantized.grid.scale[row] - target[row]
                costs.append(float(change @ matrix @ change))
            codes[row, column] = costs.index(min(costs))
    return codes


@pytest.mark.parametrize('size', SIZES[:2])
def test_descent_equals_the_slow_one(size: tuple[int, int]) -> None:
    problem, target = make(*size)
    metric, start = problem.metric(0.05), nearest(target)
    matrix = metric.times(torch.eye(size[1]).double())
    assert torch.equal(coordinate_descent(start, target, metric).codes, slow_descent(start, target, matrix))


@pytest.mark.parametrize('size', SIZES)
def test_no_step_raises_the_objective(size: tuple[int, int]) -> None:
    problem, target = make(*size)
    metric, state = problem.metric(0.05), nearest(target)
    before = row_objective(state.weight, target, metric)
    for step in (coordinate_descent, refit_scale, coordinate_descent, refit_scale):
        state = step(state, target, metric)
        after = row_objective(state.weight, target, metric)
        assert (after <= before * (1 + 1e-9)).all()
        before = after
    assert ((state.codes >= 0) & (state.codes <= 7) & (state.codes == state.codes.round())).all()


def test_refit_is_the_minimum() -> None:
    problem, target = make(80, 13)
    metric = problem.metric(0.05)
    best = refit_scale(nearest(target), target, metric)
    least = row_objective(best.weight, target, metric)
    for factor in (0.99, 1.01):
        assert (row_objective(best.weight * factor, target, metric) > least).all()


def test_refit_of_codes_that_are_all_zero_keeps_the_scale() -> None:
    problem, target = make(80, 13)
    start = nearest(target)
    empty = QuantizedWeight(start.grid.zero_point.expand_as(target).clone(), start.grid, None)
    assert torch.equal(refit_scale(empty, target, problem.metric(0.05)).grid.scale, start.grid.scale)


@pytest.mark.parametrize('block', [1, 7, 256])
def test_gptq_on_rows_equals_gptq_on_the_matrix(block: int) -> None:
    problem, target = make(9, 30)
    metric, start = problem.metric(0.05), nearest(target)
    matrix = metric.times(torch.eye(30).double())
    assert torch.equal(gptq_on_rows(start, target, metric, block).codes, gptq(start, target, matrix, damping=0.0).codes)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('spec', [SPEC, QuantSpec(8, 'row', 'symmetric'), QuantSpec(2, 'row')])
def test_search_is_better_than_rounding(size: tuple[int, int], spec: QuantSpec) -> None:
    problem, target = make(*size)
    metric = problem.metric(0.05)
    found = search_codes(target, metric, spec)
    plain = row_objective(nearest(target, spec).weight, target, metric)
    assert float(row_objective(found.weight, target, metric).sum()) < float(plain.sum())
    if spec.grid == 'symmetric':
        assert (found.grid.zero_point == 128).all()


def test_weights_on_the_grid_stay_and_two_grids_are_refused() -> None:
    problem, target = make(80, 13)
    on_grid = nearest(target).weight
    metric = MatrixMetric(problem.metric(0.05).matrix)
    torch.testing.assert_close(coordinate_descent(nearest(target), on_grid, metric).weight, on_grid)
    with pytest.raises(ValueError, match='dual_uniform'):
        search_codes(target, metric, QuantSpec(4, 'row', 'dual_uniform'))
