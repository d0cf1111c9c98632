"""Places for copies: the surgeon's costs and weights against least squares solved anew without the units."""

import pytest
import torch

from erq_mm.core.unit_copies import SAVED, choose_copies


def problem(units=12, out=5, seed=0, loud=(0, 3), faint=(7, 9)):
    """Units of which some are loud and some all but the sum of others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(units, units, generator=generator, dtype=torch.float64)
    for place in faint:
        mixing[place] = mixing[1] + mixing[2] + 1e-3 * torch.randn(units, generator=generator, dtype=torch.float64)
    covariance = mixing @ mixing.T / units
    noise = torch.full((units,), 1e-4, dtype=torch.float64)
    noise[list(loud)] = 0.05
    weight = torch.randn(out, units, generator=generator, dtype=torch.float64)
    return covariance, noise, weight, torch.rand(out, generator=generator, dtype=torch.float64) + 0.5


def best_without(matrix, weight, places):
    """Return the minimum of (w - v) M (w - v)^T over v that are zero at the places."""
    kept = [c for c in range(len(matrix)) if c not in places]
    best = torch.zeros_like(weight)
    best[:, kept] = torch.linalg.solve(matrix[kept][:, kept], matrix[kept] @ weight.T).T
    return best


def test_loud_units_get_the_places_of_those_that_others_can_replace():
    pairs, _ = choose_copies(*problem())
    units, places = zip(*pairs, strict=True)
    assert set(units) >= {0, 3}
    assert set(places) & {1, 2, 7, 9}
    assert not set(units) & set(places)
    assert len(set(units)) == len(units) and len(set(places)) == len(places)


@pytest.mark.parametrize('seed', range(4))
def test_the_weight_is_that_of_least_squares_without_the_places(seed):
    covariance, noise, weight, importance = problem(seed=seed)
    pairs, changed = choose_copies(covariance, noise, weight, importance)
    assert pairs
    places = [place for _, place in pairs]
    torch.testing.assert_close(changed, best_without(covariance + torch.diag(noise), weight, places))


@pytest.mark.parametrize('seed', range(4))
def test_every_place_saves_more_than_it_costs(seed):
    """The costs add up to what least squares loses, and each is below what its copy saves."""
    covariance, noise, weight, importance = problem(seed=seed)
    pairs, changed = choose_copies(covariance, noise, weight, importance)
    matrix = covariance + torch.diag(noise)

    def loss(value):
        return float(importance @ ((value - weight) @ matrix * (value - weight)).sum(1))

    before = 0.0
    for count, (unit, _) in enumerate(pairs, 1):
        now = loss(best_without(matrix, weight, [place for _, place in pairs[:count]]))
        assert now - before < SAVED * float(noise[unit] * (importance @ weight[:, unit].square()))
        before = now
    assert loss(changed) == pytest.approx(before)


def test_nothing_is_given_up_where_all_units_are_needed():
    covariance, noise, weight, importance = problem(faint=())
    pairs, changed = choose_copies(torch.eye(12), noise / 100, weight, importance)
    assert pairs == [] and torch.equal(changed, weight)


@pytest.mark.parametrize('units', [1, 2])
def test_one_or_two_units(units):
    pairs, _ = choose_copies(torch.eye(units), torch.ones(units), torch.ones(3, units), torch.ones(3))
    assert pairs == []
