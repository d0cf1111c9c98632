"""Clipped ranges: against brute force over the same candidates, outliers, zero, the margin."""

import pytest
import torch
from torch import Tensor

from erq_mm.core.clipping import affordable_reach, rescaled, search_clipped_range, search_ends
from erq_mm.core.scale_search import affine_parameters


def error(x: Tensor, weights: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    codes = (torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1)
    return weights @ ((codes - zero_point) * scale - x).square()


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
def test_never_worse_than_minimum_and_maximum(bits: int) -> None:
    x, weights = torch.randn(600, 5).double() ** 3, torch.rand(600).double()
    found = error(x, weights, *search_clipped_range(x, weights, bits), bits)
    plain = error(x, weights, *affine_parameters(x.amin(0), x.amax(0), 2**bits - 1), bits)
    assert (found <= plain * (1 + 1e-9)).all()
    assert (found[plain > 0] < plain[plain > 0]).any()


def test_each_end_is_clipped_on_its_own() -> None:
    """One outlier far below: the lower end moves, the upper one stays."""
    x = torch.rand(2000, 1).double()
    x[7] = -4
    scale, zero_point = search_clipped_range(x, torch.ones(2000).double(), 4)
    low, high = -zero_point * scale, (15 - zero_point) * scale
    assert float(low) > -1 and 0.8 < float(high) < 1.3


def test_weights_decide_what_counts() -> None:
    x = torch.cat([torch.rand(500, 1), 30 * torch.rand(50, 1)]).double()
    light = torch.cat([torch.ones(500), torch.zeros(50)]).double()
    heavy = torch.cat([torch.zeros(500), torch.ones(50)]).double()
    scales = [float(search_clipped_range(x, weights, 4)[0]) for weights in (light, heavy)]
    assert scales[0] < scales[1]


def test_margin_widens_about_the_middle_and_zero_is_kept_on_the_grid() -> None:
    x, ones = torch.rand(300, 3).double() + 2, torch.ones(300).double()
    narrow, wide = (search_clipped_range(x, ones, 8, margin=margin)[0] for margin in (1.0, 1.5))
    torch.testing.assert_close(wide, 1.5 * narrow)
    scale, zero_point = search_clipped_range(x, ones, 4, zero='level')
    assert ((zero_point >= 0) & (zero_point <= 15)).all()
    assert (scale * 15 >= x.amax(0) * 0.7).all()


@pytest.mark.parametrize('bits', [3, 4, 8])
def test_what_a_relu_leaves_is_not_widened_below_zero(bits: int) -> None:
    """All codes but one are left for what it lets through; with a margin of 1.35 two of 16 would lie below zero."""
    x, ones = torch.randn(500, 6).double().relu(), torch.ones(500).double()
    scale, zero_point = search_clipped_range(x, ones, bits, margin=1.35)
    assert (zero_point == 0).all()
    top = rescaled(*search_ends(x, ones, bits), 1.35)[1]
    torch.testing.assert_close(scale * (2**bits - 1), top)  # above, as any other


@pytest.mark.parametrize('shift', [-0.5, 0.5])
def test_other_ranges_are_widened_at_both_ends(shift: float) -> None:
    """One value below zero, or none that touches it: nothing says that others do not lie further out."""
    x, ones = torch.rand(500, 6).double() + shift, torch.ones(500).double()
    wide, plain = (search_clipped_range(x, ones, 8, margin=margin)[0] for margin in (1.35, 1.0))
    torch.testing.assert_close(wide, 1.35 * plain)


@pytest.mark.parametrize('sign', [-1, 1])
def test_no_range_is_much_narrower_than_the_farthest(sign: int) -> None:
    """By hand: means of 0, 7 and 2, the first reaches to 0 and 64; half of that, about the others' means."""
    x = torch.tensor([[0.0, 7.0, 1.0]] * 31 + [[64.0, 7.0, 33.0]]) - torch.tensor([2.0, 0.0, 0.0])
    scale, zero_point = search_clipped_range(sign * x, torch.ones(32), 8, least_reach=0.5)
    ends = torch.stack([-zero_point * scale, (255 - zero_point) * scale]) * sign
    found = torch.stack([ends.amin(0), ends.amax(0)])
    torch.testing.assert_close(
        found, torch.tensor([[-2.0, 6.0, 1.0], [62.0, 38.0, 33.0]]).double(), rtol=0.02, atol=0.3
    )


@pytest.mark.parametrize('bits', [7, 8])
def test_rounding_in_a_range_of_the_affordable_reach_costs_its_share(bits: int) -> None:
    """Against the rounding itself, of columns that fill a range cut from the farthest one, which weights leave out."""
    x = torch.rand(50_000, 3) * torch.tensor([1.0, 1.0, 40.0]) + torch.tensor([5.0, 0.0, 0.0])
    importance = torch.tensor([3.0, 1.0, 0.0])
    share = 0.04 / 4**bits
    reach = affordable_reach(x, torch.ones(len(x)), importance, bits, share)
    assert 0 < reach < 1
    step = reach * 40 / (2**bits - 1)
    centred = x - x.mean(0)
    cost = (centred - (centred / step).round() * step).square().mean(0) @ importance
    assert float(cost / (x.var(0) @ importance)) == pytest.approx(share, rel=0.05)


def test_the_affordable_reach_ends_at_the_farthest_column() -> None:
    x, ones = torch.randn(100, 4), torch.ones(4)
    assert affordable_reach(x, torch.ones(100), ones, 8, 0.01) == 1
    assert affordable_reach(x, torch.ones(100), ones, 8, 0.0) == 0
    assert affordable_reach(torch.ones(100, 4), torch.ones(100), ones, 8, 0.01) == 0
    assert affordable_reach(x[:1], torch.ones(1), ones, 8, 0.01) == 0
    assert affordable_reach(x, torch.zeros(100), torch.zeros(4), 8, 0.01) == 0


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_a_common_zero_leaves_every_range_whole(bits: int) -> None:
    x = torch.randn(500, 4) * torch.tensor([1.0, 20.0, 0.1, 3.0]) + torch.tensor([0.0, -50.0, 0.3, 0.0])
    x[:, 3] = 0
    ones = torch.ones(500)
    scale, zero_point = search_clipped_range(x, ones, bits, margin=1.2, zero='common')
    own_scale, own_zero = search_clipped_range(x, ones, bits, margin=1.2, zero='level')
    assert len(zero_point.unique()) == 1 and zero_point[0] == zero_point[0].round()
    low, high = -zero_point * scale, (2**bits - 1 - zero_point) * scale
    own_low, own_high = -own_zero * own_scale, (2**bits - 1 - own_zero) * own_scale
    slack = 0.51 * own_scale  # its own zero point was rounded
    assert ((low <= own_low + slack) & (high >= own_high - slack))[:3].all() and (scale > 0).all()
    assert (
        torch.isclose(low, own_low, atol=float(slack[1]))[1] or torch.isclose(high, own_high, atol=float(slack[1]))[1]
    )


@pytest.mark.parametrize('sign', [-1, 1])
def test_a_common_zero_of_one_sign_is_at_the_end(sign: int) -> None:
    scale, zero_point = search_clipped_range(sign * torch.rand(100, 3), torch.ones(100), 4, zero='common')
    assert (zero_point == (0 if sign > 0 else 15)).all() and (scale > 0).all()


@pytest.mark.parametrize('value', [0.0, -3.0, 5.0])
def test_constant_columns_and_one_row(value: float) -> None:
    x = torch.full((1, 2), value)
    scale, zero_point = search_clipped_range(x, torch.ones(1), 4)
    assert (scale > 0).all() and torch.isfinite(zero_point).all()
