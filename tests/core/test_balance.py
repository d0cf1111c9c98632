"""Balanced queries, keys and values: the function stays, both sides are equal and even, and rounding costs less."""

import pytest
import torch
from torch import Tensor

from erq_mm.calibration.sequential.ranges import fit_tensor_
from erq_mm.core.balance import balanced, even_rotation, joint_map, logit_error
from erq_mm.core.clipping import search_ends
from erq_mm.core.quantizers.uniform import UniformQuantizer
from erq_mm.core.spec import QuantSpec

HEADS, WIDTH = 2, 8


def operands(seed: int = 0) -> Tensor:
    """Queries, keys and values, (rows, 3 x 2 x 8), correlated; some keys and values are far wider than others."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for spread in ((0, 0), (-1, 2), (1, -1)):
        for _ in range(HEADS):
            mixing = torch.randn(WIDTH, WIDTH, generator=generator).double() * torch.logspace(*spread, WIDTH)
            parts.append(torch.randn(4000, WIDTH, generator=generator).double() @ mixing)
    return torch.cat(parts, 1)


def halves(x: Tensor) -> Tensor:
    return x.unflatten(1, (3, HEADS, WIDTH)).permute(1, 2, 0, 3)


def behind(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(10, HEADS * WIDTH, generator=generator).double() * torch.logspace(-1, 1, HEADS * WIDTH)


def ones(x: Tensor) -> Tensor:
    return torch.ones(len(x)).double()


def attention(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of 50 tokens, (heads, 50, 50), and their mixed values, (50, heads x 8)."""
    query, key, value = halves(x[:50])
    probability = (0.01 * query @ key.mT).softmax(-1)
    return probability, (probability @ value).transpose(0, 1).flatten(1)


@pytest.mark.parametrize('has_biases', [True, False])
def test_attention_and_the_layer_behind_stay(has_biases: bool) -> None:
    x, weight = operands() + torch.randn(48).double() * 5, behind()
    balance = balanced(x, ones(x), HEADS, 4, has_biases)
    (probability, mixed), (probability_b, mixed_b) = attention(x), attention(balance.apply(x))
    torch.testing.assert_close(probability_b, probability)
    torch.testing.assert_close(mixed_b @ balance.undo(weight).T + balance.owed(balance.undo(weight)), mixed @ weight.T)
    assert bool(balance.owed(balance.undo(weight)).any()) == has_biases
    bias = torch.randn(48).double()
    torch.testing.assert_close(balance.turn(x) + balance.apply(bias), balance.apply(x + bias))


def test_the_joint_map_makes_both_moments_one_of_even_diagonal_which_is_least() -> None:
    """tr(A^T Q A) tr(A^-1 K A^-T) >= (tr (Q^.5 K Q^.5)^.5)^2, the nuclear norm of the factors' product, squared."""
    factors = [part / part.shape[1] ** 0.5 for part in halves(operands())[:2]]
    moments = [part.mT @ part for part in factors]
    forward, inverse = joint_map(*moments)
    torch.testing.assert_close(forward @ inverse, torch.eye(WIDTH).double().expand(HEADS, -1, -1))
    query, key = forward.mT @ moments[0] @ forward, inverse @ moments[1] @ inverse.mT
    torch.testing.assert_close(query, key, rtol=0, atol=1e-3 * float(query.abs().max()))
    for head in range(HEADS):
        diagonal = query[head].diagonal()
        assert float(diagonal.max() / diagonal.min()) < 1.001
        triangles = [torch.linalg.qr(part[head]).R for part in factors]
        least = torch.linalg.svdvals(triangles[0] @ triangles[1].T).sum() ** 2
        assert float(query[head].trace() * key[head].trace()) == pytest.approx(float(least), rel=1e-3)


def test_ranges_are_equally_wide_and_lie_around_zero() -> None:
    """Those of all values, and those of keys as wide as those of the queries of the same channel."""
    x = operands()[:1000] + 10 * torch.randn(48, generator=torch.Generator().manual_seed(2)).double()
    balance = balanced(x, ones(x), HEADS, 8)
    low, high = (end.chunk(3) for end in search_ends(balance.apply(x), ones(x), 8))
    for part in (1, 2):
        torch.testing.assert_close(low[part], -high[part], rtol=0.1, atol=0)
    torch.testing.assert_close(high[2], high[2].mean().expand(HEADS * WIDTH), rtol=0.1, atol=0)
    torch.testing.assert_close(torch.maximum(-low[0], high[0]), high[1], rtol=0.1, atol=0)


@pytest.mark.parametrize('bits', [3, 4, 8])
def test_one_range_costs_less(bits: int) -> None:
    def rounded(x: Tensor) -> Tensor:
        step = 2 * x.abs().max() / (2**bits - 1)
        return torch.round(x / step) * step

    x = operands()
    errors = []
    for y in (x, balanced(x, ones(x), HEADS, 4).apply(x)):
        query, key, _ = halves(y)
        error = rounded(query) @ rounded(key[:, :200]).mT - query @ key[:, :200].mT
        errors.append(float((error - error.mean(-1, keepdim=True)).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_the_error_of_logits_is_that_of_rounding_one_side_at_a_time() -> None:
    """Against every pair of weighted tokens: (nq . k)^2, k without its mean, plus (q . nk)^2."""
    x, weights = operands()[:200] + 5, torch.rand(200).double()
    share, (query, key, _) = weights / weights.sum(), halves(x)
    noise = []
    for part in x.chunk(3, 1)[:2]:
        quantizer = UniformQuantizer(QuantSpec(4))
        fit_tensor_(quantizer, part, 1.0)
        noise.append(halves(torch.cat([quantizer.fake_quantize(part) - part] * 3, 1))[0])
    first = noise[0] @ (key - (share[:, None] * key).sum(1, keepdim=True)).mT
    expected = float(torch.einsum('hqk,q,k->', first.square() + (query @ noise[1].mT).square(), share, share))
    assert logit_error(x, weights, HEADS, 4) == pytest.approx(expected, rel=1e-6)


def test_channels_are_only_scaled_where_a_rotation_would_cost_more() -> None:
    """Channels of two values each lie on a grid as soon as they are equally wide; sums of them do not."""
    widths = torch.cat([torch.logspace(-1, 1, 16), torch.logspace(1, -1, 16), torch.ones(16)])
    x = torch.randn(4000, 48, generator=torch.Generator().manual_seed(5)).sign().double() * widths
    balance, eye = balanced(x, ones(x), HEADS, 4), torch.eye(WIDTH).bool()
    assert not balance.maps.masked_fill(eye, 0).any()
    assert logit_error(balance.apply(x), ones(x), HEADS, 4) < 0.01 * logit_error(x, ones(x), HEADS, 4)


def test_single_precision_with_directions_that_are_left_out_is_finite() -> None:
    x = torch.randn(8192, 48, generator=torch.Generator().manual_seed(3))
    x[:, :16] = x[:, :4] @ torch.randn(4, 16, generator=torch.Generator().manual_seed(4)) * 30
    assert torch.isfinite(balanced(x, torch.ones(len(x)), HEADS, 4).apply(x)).all()


def test_directions_in_which_there_is_nothing_are_left_finite() -> None:
    x, weight = operands(), behind()
    x[:, 3] = x[:, 20] = x[:, 40] = 0
    weight[:, 5] = 0
    for found, behind_it in ((x, weight), (torch.zeros_like(x[:5]), torch.zeros_like(weight)), (x[:1], weight)):
        balance = balanced(found, ones(found), HEADS, 4)
        y = balance.apply(found)
        assert torch.isfinite(y).all() and torch.isfinite(balance.undo(behind_it)).all()
        torch.testing.assert_close(attention(y)[0], attention(found)[0])


@pytest.mark.parametrize('size', [1, 2, 3, 12, 32])
def test_an_even_rotation_is_orthogonal_and_even_for_powers_of_two(size: int) -> None:
    matrix = even_rotation(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size).double())
    if size & (size - 1) == 0:
        torch.testing.assert_close(matrix.abs(), torch.full((size, size), size**-0.5).double())
