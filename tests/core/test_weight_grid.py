"""Grids of two groups: outlier columns by the definition, one search per group, and what Wqer makes of them."""

import pytest
import torch

from erq_mm.core.rounding import RoundingOptions
from erq_mm.core.spec import MIN_MAX, WEIGHT_PERCENTILES, QuantSpec
from erq_mm.core.weight_error import reduce_weight_error
from erq_mm.core.weight_grid import fit_weight_grid, outlier_columns, round_to_nearest

from .layer_problem import double_grid, make_problem

DUAL = QuantSpec(4, 'row', 'dual_uniform', WEIGHT_PERCENTILES)
PLAIN = QuantSpec(4, 'row', percentiles=WEIGHT_PERCENTILES)


def wide_weight(rows: int = 60, columns: int = 40) -> torch.Tensor:
    weight = torch.randn(rows, columns)
    weight[:, [3, 17, 25]] *= 12
    return weight


def test_outlier_columns_by_the_definition() -> None:
    weight = wide_weight()
    votes = [0] * weight.shape[1]
    for row in weight:
        high = torch.quantile(row[row > 0].double(), 0.99)
        low = torch.quantile(row[row < 0].double(), 0.01)
        for column, value in enumerate(row.double()):
            votes[column] += bool(value > high or value < low)
    expected = sorted(sorted(range(len(votes)), key=lambda c: (-votes[c], c))[:3])
    assert outlier_columns(weight, None).nonzero().flatten().tolist() == expected == [3, 17, 25]


@pytest.mark.parametrize(('share', 'count'), [(None, 3), (0.0, 0), (0.25, 10), (0.999, 40)])
def test_number_of_outlier_columns(share: float | None, count: int) -> None:
    """None is out_features // 20, as released."""
    assert int(outlier_columns(wide_weight(), share).sum()) == count


def test_each_group_gets_the_grid_it_would_have_alone() -> None:
    weight = wide_weight()
    dual = fit_weight_grid(weight, DUAL)
    for index in (0, 1):
        alone = fit_weight_grid(weight[:, dual.group == index], PLAIN)
        assert torch.equal(dual.scale[:, index : index + 1], alone.scale)
        assert torch.equal(dual.zero_point[:, index : index + 1], alone.zero_point)


def test_two_grids_beat_one_where_columns_are_wide() -> None:
    weight = wide_weight()
    dual, plain = (fit_weight_grid(weight, spec) for spec in (DUAL, PLAIN))
    errors = [(grid.decode(grid.encode(weight)) - weight).square().sum() for grid in (dual, plain)]
    assert errors[0] < 0.3 * errors[1]


@pytest.mark.parametrize('bits', range(2, 9))
def test_codes_in_range_and_idempotent(bits: int) -> None:
    weight = wide_weight()
    grid = fit_weight_grid(weight, QuantSpec(bits, 'row', 'dual_uniform', MIN_MAX))
    codes = grid.encode(weight)
    assert codes.min() >= 0 and codes.max() <= 2**bits - 1
    assert torch.equal(grid.encode(grid.decode(codes)), codes)
    part = grid.encode(weight[:, 5:20], start=5)
    assert torch.equal(part, codes[:, 5:20])


def test_no_outlier_columns_is_the_plain_grid() -> None:
    weight = wide_weight()
    spec = QuantSpec(4, 'row', 'dual_uniform', WEIGHT_PERCENTILES, outlier_share=0.0)
    dual, plain = fit_weight_grid(weight, spec), fit_weight_grid(weight, PLAIN)
    assert torch.equal(dual.decode(dual.encode(weight)), plain.decode(plain.encode(weight)))


def test_refined_roundings_lower_the_proxy_in_both_groups() -> None:
    problem = make_problem(rows=80, inputs=24, outputs=40)
    problem.weight[:, [2, 9, 15, 20]] *= 10
    grid = double_grid(problem.weight, QuantSpec(3, 'row', 'dual_uniform', MIN_MAX, outlier_share=0.2))
    nearest, stats = round_to_nearest(problem.weight, problem.bias, grid), problem.stats()
    system = stats.system(0.1 * stats.mean_energy())
    refined = reduce_weight_error(nearest, problem.weight, system, stats.count, rounding=RoundingOptions(), ridge=False)
    flipped = refined.codes != nearest.codes
    assert flipped[:, grid.group == 0].any() and flipped[:, grid.group == 1].any()
    half = slice(0, 12)  # the first half is refined on its own
    gram, errors = stats.input_gram()[half, half], [(q.weight - problem.weight)[:, half] for q in (refined, nearest)]
    proxies = [((error @ gram) * error).sum(1) for error in errors]
    assert (proxies[0] <= proxies[1] * (1 + 1e-12)).all()
