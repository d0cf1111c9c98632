"""Running sums against explicit rows."""

import pytest
import torch

from erq_mm.core.statistics import GramStats, RowStats, quadratic_form

from .layer_problem import make_problem


@pytest.mark.parametrize('outputs', [3, 25])
def test_sums_equal_the_explicit_products(outputs: int) -> None:
    """Both for layers that keep the output error and for those that keep the input error."""
    problem = make_problem(outputs=outputs)
    stats = problem.stats()
    assert stats.keeps_output_error == (outputs <= 10)
    error = (problem.x - problem.x_q) @ problem.weight.T
    torch.testing.assert_close(stats.gram, problem.augmented.T @ problem.augmented)
    torch.testing.assert_close(stats.output_cross(), problem.augmented.T @ error)
    assert stats.energy == pytest.approx(float(error.square().sum()))
    assert stats.count == 60
    assert stats.mean_energy() == pytest.approx(float(problem.x_q.square().sum(0).mean()))


@pytest.mark.parametrize('kind', [GramStats, RowStats])
def test_output_error_of_any_change(kind: type) -> None:
    problem = make_problem()
    change = 0.1 * torch.randn(4, 11).double()
    assert problem.stats(kind).output_mse(change) == pytest.approx(float(problem.output_error(change)))


@pytest.mark.parametrize('size', [1, 192, 193, 401, 1000])
def test_quadratic_form_takes_every_pair_of_columns(size: int) -> None:
    rows, change = torch.randn(50, size).double(), torch.randn(3, size).double()
    assert quadratic_form(change, rows.T @ rows) == pytest.approx(float((change @ rows.T).square().sum()))


def test_energy_follows_rows_that_arrive_after_it_was_asked_for() -> None:
    problem = make_problem(outputs=25)
    stats = problem.stats()
    before = stats.energy
    stats.add(problem.x, problem.x_q)
    assert stats.energy == pytest.approx(2 * before)


def test_rows_and_sums_agree_while_all_rows_fit() -> None:
    problem = make_problem(rows=30)
    sums, rows = problem.stats(), problem.stats(RowStats, capacity=30)
    torch.testing.assert_close(rows.rows[: rows.count].T @ rows.rows[: rows.count], sums.gram)
    torch.testing.assert_close(rows.output_cross(), sums.output_cross())
    assert rows.mean_energy() == pytest.approx(sums.mean_energy())


def test_reservoir_is_uniform_over_calls_and_deterministic() -> None:
    """20 of 200 rows, 300 times: every row is kept in 10 % of the samples, first calls and last alike."""
    index = torch.arange(200.0)[:, None]
    kept = torch.zeros(200)
    for seed in range(300):
        stats = RowStats(torch.ones(1, 1), capacity=20, seed=seed)
        for part in index.split([5, 60, 1, 134]):
            stats.add(part, part)
        kept[stats.rows[:, 0].long()] += 1
    assert stats.count == 20
    assert kept.sum() == 300 * 20
    for part in kept.split(50):
        assert abs(float(part.mean()) - 30) < 4
    again = RowStats(torch.ones(1, 1), capacity=20, seed=299)
    for part in index.split([5, 60, 1, 134]):
        again.add(part, part)
    assert torch.equal(again.rows, stats.rows)


def test_no_rows() -> None:
    problem = make_problem(rows=0)
    for kind in (GramStats, RowStats):
        stats = problem.stats(kind)
        assert stats.count == 0
        assert stats.output_mse(torch.zeros(4, 11).double()) == 0


def test_memory_does_not_depend_on_the_number_of_rows() -> None:
    def size(stats: GramStats | RowStats) -> int:
        return sum(t.numel() for t in vars(stats).values() if isinstance(t, torch.Tensor))

    for kind in (GramStats, RowStats):
        assert size(make_problem(rows=10).stats(kind)) == size(make_problem(rows=5000).stats(kind))
