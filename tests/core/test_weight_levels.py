"""Tables of levels for weights: which codes may be taken, and which table a layer gets."""

import pytest
import torch
from torch import Tensor

from erq_mm.core.adaround import SoftRounding
from erq_mm.core.code_search import search_codes
from erq_mm.core.coordinate_descent import coordinate_descent, refit_scale, row_objective
from erq_mm.core.gptq import gptq
from erq_mm.core.row_problem import MatrixMetric, RowsMetric
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import FINER, QuantizedWeight, WeightGrid, fit_weight_grid, round_to_nearest
from erq_mm.core.weight_levels import levels_of_range, search_weight_levels

BITS = (2, 3, 4)


def laplacian(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(rows, columns, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs()) * torch.linspace(0.5, 2, rows)[:, None]


def spec(bits: int, grid: str = 'levels') -> QuantSpec:
    return QuantSpec(bits, 'row', grid)


def metric(columns: int, seed: int = 0) -> MatrixMetric:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(3 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return MatrixMetric(mixed.T @ mixed / len(mixed) + 0.1 * torch.eye(columns))


def table_grid(rows: int) -> WeightGrid:
    table = torch.tensor([0.0, 9, 20, 28])
    return WeightGrid(torch.linspace(0.05, 0.1, rows)[:, None], torch.full((rows, 1), 9.0), 28, table=table)


@pytest.mark.parametrize('bits', BITS)
def test_evenly_spaced_levels_are_those_of_the_uniform_grid(bits: int) -> None:
    weight = laplacian(5, 40)
    even, uniform = (fit_weight_grid(weight, spec(bits, grid)) for grid in ('levels', 'uniform'))
    torch.testing.assert_close(even.encode(weight), uniform.encode(weight) * FINER)
    torch.testing.assert_close(even.decode(even.encode(weight)), uniform.decode(uniform.encode(weight)))


@pytest.mark.parametrize('bits', BITS)
def test_differences_of_codes_are_exact_where_two_products_are_added_in_16_bits(bits: int) -> None:
    grid = search_weight_levels(laplacian(5, 40), torch.ones(40), bits)
    low, high = -float(grid.zero_point.max()), float((grid.table.max() - grid.zero_point).max())
    assert max(-low, high) * 2 * 255 < 2**15
    assert len(grid.table) == 2**bits and bool((grid.table == grid.table.round()).all())
    assert float(grid.table.min()) == 0 and float(grid.table.max()) == grid.max_code


def test_the_nearest_level_is_taken() -> None:
    grid, weight = table_grid(3), torch.linspace(-3, 3, 600).expand(3, -1)
    values = grid.decode(grid.table.expand(3, -1))
    nearest = (weight[:, :, None] - values[:, None]).abs().amin(2)
    torch.testing.assert_close((grid.decode(grid.encode(weight)) - weight).abs(), nearest)
    assert bool(torch.isin(grid.encode(weight), grid.table).all())


def test_weights_of_as_many_values_as_levels_are_exact() -> None:
    values, factors = torch.tensor([-20.0, 0, 14, 40]), torch.arange(1, 7)[:, None]
    weight = values[torch.randint(4, (6, 200), generator=torch.Generator().manual_seed(0))] * factors
    grid = search_weight_levels(weight, torch.ones(200), 2)
    levels = grid.decode(grid.table.expand(6, -1)) / factors
    torch.testing.assert_close(levels, values.expand(6, -1), atol=60 / 12 / 2, rtol=0)  # half a step of the finer grid
    error = (grid.decode(grid.encode(weight)) - weight).square().mean()
    uniform = fit_weight_grid(weight, spec(2, 'uniform'))
    assert error < 0.2 * (uniform.decode(uniform.encode(weight)) - weight).square().mean()


@pytest.mark.parametrize('bits', BITS)
def test_zero_is_a_level_of_every_row_also_of_rows_of_one_sign_and_of_zeros(bits: int) -> None:
    weight = laplacian(4, 30)
    weight[0], weight[1] = weight[0].abs() + 3, 0
    for grid in (search_weight_levels(weight, torch.ones(30), bits), search_codes(weight, metric(30), spec(bits)).grid):
        zeros = torch.zeros(4, 1)
        assert torch.equal(grid.decode(grid.encode(zeros)), zeros)
        assert bool((grid.scale > 0).all())
        assert torch.equal(grid.decode(grid.encode(weight))[1], weight[1])


def test_gptq_takes_levels_and_makes_up_for_their_errors() -> None:
    weight, grid, gram = laplacian(3, 8).double(), table_grid(3).to(torch.float64), metric(8).matrix.double()
    found = gptq(QuantizedWeight(weight, grid, None), weight, gram)
    upper = torch.linalg.cholesky(torch.linalg.inv(gram + 0.01 * gram.diagonal().mean() * torch.eye(8))).mT
    left, codes = weight.clone(), torch.empty_like(weight)
    for j in range(8):
        values = (grid.table - grid.zero_point) * grid.scale  # (rows, levels)
        best = (values - left[:, j : j + 1]).abs().argmin(1)
        codes[:, j] = grid.table[best]
        error = (left[:, j] - values.gather(1, best[:, None])[:, 0]) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    torch.testing.assert_close(found.codes, codes)


def test_descent_ends_at_the_best_level_of_the_last_column_and_never_raises_the_objective() -> None:
    target, grid, form = laplacian(4, 10), table_grid(4), metric(10)
    before = round_to_nearest(target, None, grid)
    after = coordinate_descent(before, target, form)
    assert bool((row_objective(after.weight, target, form) <= row_objective(before.weight, target, form) + 1e-6).all())
    assert bool(torch.isin(after.codes, grid.table).all())
    for code in grid.table:
        other = after.codes.clone()
        other[:, -1] = code
        worse = row_objective(grid.decode(other), target, form)
        assert bool((worse >= row_objective(after.weight, target, form) - 1e-5).all())
    refitted = refit_scale(after, target, form)
    assert torch.equal(refitted.codes, after.codes)
    assert float(row_objective(refitted.weight, target, form).sum()) <= float(
        row_objective(after.weight, target, form).sum()
    )


@pytest.mark.parametrize('bits', BITS)
def test_codes_on_levels_are_better_than_on_even_ones_where_weights_have_tails(bits: int) -> None:
    target, form = laplacian(16, 64), metric(64)
    levels, even = (search_codes(target, form, spec(bits, grid)) for grid in ('levels', 'uniform'))
    errors = [float(row_objective(found.weight, target, form).sum()) for found in (levels, even)]
    assert errors[0] < 0.95 * errors[1]
    assert bool(torch.isin(levels.codes, levels.grid.table).all())


def test_a_given_table_is_kept_and_only_ranges_are_searched() -> None:
    target, form, table = laplacian(4, 20), metric(20), torch.tensor([0.0, 5, 9, 12])
    found = search_codes(target, form, spec(2), table)
    assert torch.equal(found.grid.table, table)
    assert bool(torch.isin(found.grid.zero_point, table).all())


@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (5, 1)])
def test_smallest_weights(shape: tuple[int, int]) -> None:
    target = laplacian(*shape)
    found = search_codes(target, MatrixMetric(torch.eye(shape[1])), spec(4))
    assert float((found.weight - target).abs().max()) < 0.15 * float(target.abs().max())


def test_wide_layers_held_as_rows_have_levels() -> None:
    rows = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    found = search_codes(laplacian(6, 64), RowsMetric(rows, 1.0, 20.0), spec(4))
    assert bool(torch.isin(found.codes, found.grid.table).all())


def test_a_range_is_moved_until_zero_is_a_level() -> None:
    table = torch.tensor([0.0, 3, 7, 12])
    grid = levels_of_range(table, torch.tensor([[-0.4], [0.0]]), torch.tensor([[0.8], [1.2]]))
    torch.testing.assert_close(grid.scale, torch.tensor([[0.1], [0.1]]))
    assert grid.zero_point.flatten().tolist() == [3, 0]


def test_between_two_levels_the_smaller_is_taken_and_the_ends_are_kept() -> None:
    table = torch.tensor([0.0, 3, 7, 12])
    grid = WeightGrid(torch.ones(1, 1), torch.zeros(1, 1), 12, table=table)
    codes = torch.tensor([-9.0, 0.0, 1.5, 1.500001, 5.0, 5.1, 9.5, 9.6, 12.0, 99.0])
    assert grid.nearest_(codes.clone()).tolist() == [0, 0, 0, 3, 3, 7, 7, 12, 12, 12]


def test_methods_that_step_from_code_to_code_refuse_tables() -> None:
    with pytest.raises(ValueError, match="AdaRound moves weights .* take 'uniform'"):
        SoftRounding(torch.zeros(3, 4), table_grid(3))
