"""The fraction of variance unexplained: its fixed points, a slow reference, and sums that stream."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from erq_mm.core import unexplained
from erq_mm.core.unexplained import UnexplainedVariance


def fraction(f: Tensor, q: Tensor) -> float | None:
    found = UnexplainedVariance()
    found.add(f, q)
    return found.fraction


def slow_fraction(f: Tensor, q: Tensor) -> float:
    """One number at a time, with exact sums."""
    fs, qs = f.double().flatten().tolist(), q.double().flatten().tolist()
    mean = math.fsum(fs) / len(fs)
    error = math.fsum((b - a) ** 2 for a, b in zip(fs, qs, strict=True))
    return error / math.fsum((a - mean) ** 2 for a in fs)


def test_the_reference_itself_is_0_its_mean_1_and_the_opposite_of_a_centred_one_4() -> None:
    f = torch.randn(3, 5, 7)
    assert fraction(f, f.clone()) == 0.0
    assert fraction(f.double(), f.double().mean().expand_as(f)) == pytest.approx(1, rel=1e-12)
    centred = f.double() - f.double().mean()
    assert fraction(centred, -centred) == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_it_is_what_slow_sums_say(dtype: torch.dtype) -> None:
    f = (torch.randn(4, 90) * torch.linspace(0.1, 5, 90) + 2).to(dtype)
    q = f + (0.1 * torch.randn(4, 90)).to(dtype)
    assert fraction(f, q) == pytest.approx(slow_fraction(f, q), rel=1e-12)


def test_parts_of_any_shape_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the parts' means differ, as those of images do; and whatever the size of a chunk."""
    f = torch.cat([torch.randn(60) + 9, torch.randn(30) - 4, torch.randn(7)])
    q = f + 0.3 * torch.randn(97)
    streamed = UnexplainedVariance()
    streamed.add(f[:60].view(3, 20), q[:60].view(3, 20))
    streamed.add(f[60:60], q[60:60])  # an image without regions
    monkeypatch.setattr(unexplained, 'NUMBERS_PER_CHUNK', 8)
    streamed.add(f[60:], q[60:])
    assert streamed.count == 97 and streamed.fraction == pytest.approx(slow_fraction(f, q), rel=1e-12)
    assert streamed.mean == pytest.approx(f.double().mean().item(), rel=1e-12)


def test_a_mean_far_above_the_deviation_costs_no_digits() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1000)))
    f = 2.0**40 + noise[0]  # sum f^2 - (sum f)^2 / n would have no digit right
    q = f + 0.1 * noise[1]
    assert fraction(f, q) == pytest.approx(slow_fraction(f, q), rel=1e-9)


def test_outputs_of_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r'is \(2, 3\) and that of the reference \(3, 2\)'):
        fraction(torch.zeros(3, 2), torch.zeros(2, 3))


def test_where_there_is_none() -> None:
    assert UnexplainedVariance().fraction is None
    assert fraction(torch.ones(4), torch.zeros(4)) is None
    assert fraction(torch.ones(4), torch.ones(4)) == 0.0  # nothing to explain, and nothing missed
    assert fraction(torch.arange(3.0), torch.tensor([0, math.nan, 2])) is None
    assert fraction(torch.arange(3.0), torch.tensor([0, math.inf, 2])) is None
