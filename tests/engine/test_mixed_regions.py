"""Regions cut and put together from two of an image's own."""

import pytest
import torch

from erq_mm.engine import mixed_regions
from erq_mm.engine.mixed_regions import RegionMix, draw_mix

REGIONS = torch.arange(12.0).view(2, 1, 2, 3)  # [[0 1 2] [3 4 5]] and [[6 7 8] [9 10 11]]


def test_two_regions_worked_by_hand() -> None:
    mix = RegionMix(
        pairs=torch.tensor([[0, 1], [1, 1]]),
        flipped=torch.tensor([[False, True], [True, False]]),
        is_first=torch.tensor([[[1, 0, 0], [1, 0, 0]], [[0, 0, 0], [1, 1, 1]]]).bool(),
    )
    wanted = torch.tensor([[[0.0, 7, 6], [3, 10, 9]], [[6, 7, 8], [11, 10, 9]]])[:, None]
    torch.testing.assert_close(mix.mixed(REGIONS), wanted)
    torch.testing.assert_close(mix.appended(REGIONS), torch.cat([REGIONS, wanted]))
    torch.testing.assert_close(mix.appended(REGIONS.flatten(1)), torch.cat([REGIONS, wanted]).flatten(1))


def test_what_two_models_make_of_the_regions_stays_paired() -> None:
    mix = draw_mix(torch.ones(2), (2, 3), 50, seed=0)
    torch.testing.assert_close(mix.mixed(2 * REGIONS + 1), 2 * mix.mixed(REGIONS) + 1)


@pytest.mark.parametrize('at_once', [1, 7, 50, 64])
def test_how_many_are_put_together_at_a_time_is_the_same(at_once: int, monkeypatch) -> None:
    regions, mix = torch.randn(9, 4, 7, 5), draw_mix(torch.ones(9), (7, 5), 50, seed=0)
    wanted = torch.empty(50, 4, 7, 5)
    for place in range(50):
        pair = zip(mix.pairs[:, place], mix.flipped[:, place], strict=True)
        wanted[place] = torch.where(
            mix.is_first[place], *(regions[i].flip(-1) if turned else regions[i] for i, turned in pair)
        )
    monkeypatch.setattr(mixed_regions, 'AT_ONCE', at_once)
    assert torch.equal(mix.mixed(regions), wanted)
    assert torch.equal(mix.appended(regions.flatten(1)), torch.cat([regions, wanted]).flatten(1))


def test_every_region_has_two_parts_on_either_side_of_a_row_or_a_column() -> None:
    is_first = draw_mix(torch.ones(5), (3, 4), 400, seed=0).is_first
    shares = is_first.double().mean((1, 2))
    assert bool(((shares > 0) & (shares < 1)).all())
    by_row = (is_first == is_first[:, :, :1]).all(2).all(1)
    by_column = (is_first == is_first[:, :1]).all(2).all(1)
    assert bool((by_row ^ by_column).all()) and 100 < int(by_row.sum()) < 300
    for lines, length in ((is_first[by_row][:, :, 0], 3), (is_first[by_column][:, 0], 4)):
        assert bool((lines[:, 1:] != lines[:, :-1]).sum(1).eq(1).all())  # one cut
        assert lines.double().mean(0).sub(0.5).abs().max() < 0.12  # either side is the first one's as often
        assert {int(line.sum()) for line in lines} == set(range(1, length))


def test_regions_are_drawn_by_their_chances() -> None:
    pairs = draw_mix(torch.tensor([0.0, 1, 3]), (7, 7), 4000, seed=1).pairs
    counts = torch.bincount(pairs.flatten(), minlength=3).double() / pairs.numel()
    torch.testing.assert_close(counts, torch.tensor([0.0, 0.25, 0.75]).double(), atol=0.02, rtol=0)


def test_the_seed_decides() -> None:
    first, again, other = (draw_mix(torch.ones(9), (7, 7), 30, seed) for seed in (0, 0, 1))
    assert torch.equal(first.pairs, again.pairs) and torch.equal(first.is_first, again.is_first)
    assert not torch.equal(first.pairs, other.pairs)


def test_one_region_of_one_place() -> None:
    one = torch.tensor([[2.5]])
    torch.testing.assert_close(draw_mix(torch.ones(1), (1, 1), 3, seed=0).appended(one), torch.full((4, 1), 2.5))
