"""GPTQ against an independent slow solver: exact conditional minimizers, one weight at a time."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from erq_mm.core.gptq import Elimination, gptq
from erq_mm.core.spec import MIN_MAX, QuantSpec
from erq_mm.core.statistics import GramStats, RowStats
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest

from .layer_problem import double_grid, make_problem

SPECS = [QuantSpec(3, 'row', percentiles=MIN_MAX), QuantSpec(3, 'row', 'dual_uniform', MIN_MAX, outlier_share=0.3)]


def slow_gptq(weight, grid, gram, damping: float, order: list[int]):
    """Fix one weight after the other; the free ones minimize the quadratic form exactly, given all fixed ones."""
    damped = gram + damping * gram.diagonal().mean() * torch.eye(len(gram)).double()
    scales, zeros = grid.scale_of().expand_as(weight), grid.zero_point_of().expand_as(weight)
    codes = torch.zeros_like(weight)
    for row in range(len(weight)):
        error = torch.zeros(len(gram)).double()
        for position, j in enumerate(order):
            fixed, free = order[:position], order[position:]
            if fixed:  # d L / d error_free = 0
                block = damped[free][:, free]
                error[free] = -torch.linalg.solve(block, damped[free][:, fixed] @ error[fixed])
            value = weight[row, j] + error[j]
            codes[row, j] = (torch.round(value / scales[row, j]) + zeros[row, j]).clamp(0, grid.max_code)
            error[j] = (codes[row, j] - zeros[row, j]) * scales[row, j] - weight[row, j]
    return codes


@pytest.mark.parametrize('spec', SPECS, ids=['uniform', 'dual'])
@pytest.mark.parametrize('act_order', [False, True])
@pytest.mark.parametrize('block_size', [1, 4, 128])
def test_equals_the_slow_solver(spec: QuantSpec, act_order: bool, block_size: int) -> None:
    problem = make_problem(rows=50, inputs=11, outputs=5)
    gram = problem.stats().input_gram()
    grid = double_grid(problem.weight, spec)
    order = gram.diagonal().argsort(descending=True, stable=True).tolist() if act_order else list(range(11))
    expected = slow_gptq(problem.weight, grid, gram, 0.01, order)
    nearest = round_to_nearest(problem.weight, problem.bias, grid)
    result = gptq(nearest, problem.weight, gram, act_order=act_order, block_size=block_size)
    assert torch.equal(result.codes, expected)
    assert torch.equal(result.bias, problem.bias)


@pytest.mark.parametrize('act_order', [False, True])
def test_variances_are_what_an_error_costs_in_the_end(act_order: bool) -> None:
    """One column is moved by one, all that come after it are free, those before it stay: the least quadratic form."""
    gram = make_problem(rows=50, inputs=7).stats().input_gram()
    order = gram.diagonal().argsort(descending=True, stable=True).tolist() if act_order else list(range(7))
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(7).double()
    variances = Elimination(gram, 0.01, act_order).variances()
    for position, j in enumerate(order):
        free = order[position + 1 :]
        cross = damped[j, free]
        least = damped[j, j] - (cross @ torch.linalg.solve(damped[free][:, free], cross) if free else 0)
        assert float(variances[j]) == pytest.approx(float(least))


def test_beats_nearest_on_average() -> None:
    ratios = []
    for _ in range(20):
        problem = make_problem(rows=80, inputs=24, outputs=8)
        nearest = round_to_nearest(problem.weight, problem.bias, double_grid(problem.weight, SPECS[0]))
        result = gptq(nearest, problem.weight, problem.stats().input_gram())
        errors = [((q.weight - problem.weight) @ problem.x_q.T).square().sum() for q in (result, nearest)]
        ratios.append(float(errors[0] / errors[1]))
    assert sum(ratios) / len(ratios) < 0.7


def test_a_dead_column_gets_the_code_of_zero() -> None:
    problem = make_problem(inputs=6)
    problem.x_q[:, 2] = 0
    nearest = round_to_nearest(problem.weight, problem.bias, double_grid(problem.weight, SPECS[0]))
    result = gptq(nearest, problem.weight, problem.stats().input_gram())
    assert not result.weight[:, 2].any()


def test_sampled_rows_give_the_same_gram_matrix() -> None:
    problem = make_problem()
    torch.testing.assert_close(problem.stats(RowStats).input_gram(), problem.stats(GramStats).input_gram())


def test_a_matrix_that_is_not_definite_is_named() -> None:
    problem = make_problem(inputs=6)
    nearest = round_to_nearest(problem.weight, problem.bias, double_grid(problem.weight, SPECS[0]))
    with pytest.raises(ValueError, match='6 columns.* not positive definite: raise `damping`'):
        gptq(nearest, problem.weight, torch.full((6, 6), torch.nan).double())


@pytest.mark.parametrize('act_order', [False, True])
def test_memory_is_that_of_one_matrix_in_float64(act_order: bool) -> None:
    """12,544 columns have to fit a GPU of 8 GB: beside the Gram matrix one in float64, and one being reordered."""
    columns = 1024
    weight, rows = torch.randn(4, columns), torch.randn(2000, columns)
    nearest, gram = round_to_nearest(weight, None, fit_weight_grid(weight, SPECS[0])), rows.T @ rows
    peak = peak_bytes(lambda: gptq(nearest, weight, gram, act_order=act_order))
    assert 8 * columns**2 < peak < 2.1 * 8 * columns**2


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most that torch held at once of what `work` allocated, inside its operators too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == '[memory]']
    held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held)
