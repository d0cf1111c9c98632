"""The progressive search: exhaustive with one step, coarse to fine with more, no candidate twice."""

import pytest

from erq_mm.core.grid_search import Lattice, progressive_search

LATTICE = Lattice(tuple(float(i) for i in range(40)), tuple(float(j) for j in range(50)))


def bowl(candidate: tuple[float, float]) -> float:
    return (candidate[0] - 23) ** 2 + (candidate[1] - 7) ** 2 + candidate[0] * candidate[1] * 1e-3


def test_one_step_tries_everything_once() -> None:
    seen = []
    best = progressive_search(LATTICE, lambda c: seen.append(c) or bowl(c), beam=1, steps=1)
    assert best == min(seen, key=bowl)
    assert len(seen) == len(set(seen)) == len(LATTICE) == 2000


@pytest.mark.parametrize('steps', [2, 3, 4, 6])
def test_coarse_to_fine_finds_the_minimum_of_a_bowl(steps: int) -> None:
    seen = []
    best = progressive_search(LATTICE, lambda c: seen.append(c) or bowl(c), beam=4, steps=steps)
    assert best == (23.0, 7.0)
    assert len(seen) == len(set(seen)) < len(LATTICE) / 2


def test_a_beam_that_keeps_everything_is_exhaustive() -> None:
    def rough(candidate: tuple[float, float]) -> float:
        return (candidate[0] * 7919 + candidate[1] * 104729) % 1009

    found = progressive_search(LATTICE, rough, beam=10**6, steps=3)
    assert rough(found) == rough(progressive_search(LATTICE, rough, beam=1, steps=1))


def test_the_last_row_and_column_are_reached_and_one_candidate_is_enough() -> None:
    assert progressive_search(LATTICE, lambda c: -c[0] - c[1], beam=2, steps=4) == (39.0, 49.0)
    assert progressive_search(Lattice((2.0,), (3.0,)), lambda c: 0.0, beam=16, steps=4) == (2.0, 3.0)


@pytest.mark.parametrize(('name', 'value'), [('beam', 0), ('beam', 1.5), ('steps', True), ('steps', -1)])
def test_bad_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f'{name} must be a positive integer, got {value}'):
        progressive_search(LATTICE, bowl, **{'beam': 2, 'steps': 2, name: value})
