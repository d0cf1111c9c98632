"""Wqer against an independent, slow transcription of Algorithm 1."""

import pytest
import torch

from erq_mm.core.ridge import damping
from erq_mm.core.rounding import RoundingOptions
from erq_mm.core.spec import WEIGHT_PERCENTILES, QuantSpec
from erq_mm.core.statistics import GramStats, RowStats
from erq_mm.core.weight_error import halving, reduce_weight_error
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest

from .layer_problem import LayerProblem, make_problem


def slow_wqer(problem: LayerProblem, scale, zero_point, max_code: int, lam: float, refine: bool):
    """One row and one half at a time, with explicit inverses and rows; `paper` rule, k = 1, T = 100."""
    design, codes, biases = problem.augmented, [], []
    for weight, bias, s, z in zip(problem.weight, problem.bias, scale[:, 0], zero_point[:, 0], strict=True):
        row = torch.cat([weight, bias[None]])
        row_codes, start = [], 0
        while start < len(weight):
            size = max(1, (len(weight) - start) // 2)
            block, x_s = row[start : start + size], design[:, start : start + size]
            q = (torch.round(block / s) + z).clamp(0, max_code)
            matrix = x_s.mean(0)[:, None] * x_s.mean(0) + torch.cov(x_s.T, correction=0).reshape(size, size)
            for _ in range(100 if refine else 0):
                d = (q - z) * s - block
                gradient = 2 * d @ matrix
                other = q - torch.where(d > 0, 1.0, -1.0)
                allowed = (gradient * d >= 0) & (other >= 0) & (other <= max_code)
                j = int((gradient.abs() * allowed).argmax())
                trial = q.clone()
                trial[j] = other[j]
                d_trial = (trial - z) * s - block
                if not allowed[j] or d_trial @ matrix @ d_trial >= d @ matrix @ d:
                    break
                q = trial
            d = (q - z) * s - block
            x_r = design[:, start + size :]
            inverse = torch.linalg.inv(x_r.T @ x_r + lam * torch.eye(x_r.shape[1]).double())
            row[start + size :] -= d @ x_s.T @ x_r @ inverse
            row_codes.append(q)
            start += size
        codes.append(torch.cat(row_codes))
        biases.append(row[-1])
    return torch.stack(codes), torch.stack(biases)


@pytest.mark.parametrize('kind', [GramStats, RowStats])
@pytest.mark.parametrize('refine', [False, True])
def test_equals_the_slow_reference(kind: type, refine: bool) -> None:
    problem = make_problem(rows=40, inputs=13, outputs=5)
    stats, rtn, lam = _prepare(problem, kind)
    expected_codes, expected_bias = slow_wqer(problem, rtn.grid.scale, rtn.grid.zero_point, 15, lam, refine)
    rounding = RoundingOptions('paper') if refine else None
    result = reduce_weight_error(rtn, problem.weight, stats.system(lam), stats.count, rounding=rounding, proxy='paper')
    assert torch.equal(result.codes, expected_codes)
    torch.testing.assert_close(result.bias, expected_bias)


def _prepare(problem: LayerProblem, kind: type = GramStats, bits: int = 4):
    stats = problem.stats(kind)
    spec = QuantSpec(bits, 'row', percentiles=WEIGHT_PERCENTILES)
    rtn = round_to_nearest(
        problem.weight, problem.bias, fit_weight_grid(problem.weight.float(), spec).to(torch.float64)
    )
    return stats, rtn, damping('relative', 0.01, stats.mean_energy(), stats.count)


def _error(problem: LayerProblem, quantized) -> float:
    change = torch.cat([quantized.weight - problem.weight, (quantized.bias - problem.bias)[:, None]], 1)
    return float((problem.augmented @ change.T).square().mean())


@pytest.mark.parametrize('bits', range(2, 9))
def test_codes_in_range_on_fixed_scales_at_every_bit_width(bits: int) -> None:
    problem = make_problem(inputs=24)
    stats, rtn, lam = _prepare(problem, bits=bits)
    result = reduce_weight_error(rtn, problem.weight, stats.system(lam), stats.count, rounding=RoundingOptions())
    assert torch.equal(result.codes, result.codes.round())
    assert result.codes.min() >= 0
    assert result.codes.max() <= 2**bits - 1
    assert result.grid is rtn.grid


def test_every_component_lowers_the_error_on_average() -> None:
    """Nearest > rounding or ridge alone > both, over 30 layers; `compensated` beats Eq. 12 as the objective."""
    variants = {
        'rounding': dict(rounding=RoundingOptions(), ridge=False),
        'ridge': dict(rounding=None, ridge=True),
        'paper': dict(rounding=RoundingOptions(), ridge=True, proxy='paper'),
        'compensated': dict(rounding=RoundingOptions(), ridge=True, proxy='compensated'),
    }
    total = dict.fromkeys(['nearest', *variants], 0.0)
    for _ in range(30):
        problem = make_problem(rows=80, inputs=24, outputs=8)
        stats, rtn, lam = _prepare(problem)
        system, unit = stats.system(lam), _error(problem, rtn)
        total['nearest'] += 1
        for name, options in variants.items():
            result = reduce_weight_error(rtn, problem.weight, system, stats.count, **options)
            total[name] += _error(problem, result) / unit
    assert total['nearest'] > max(total['rounding'], total['ridge'])
    assert min(total['rounding'], total['ridge']) > total['paper'] > total['compensated']


def test_switched_off_it_is_round_to_nearest() -> None:
    problem = make_problem()
    stats, rtn, lam = _prepare(problem)
    result = reduce_weight_error(rtn, problem.weight, stats.system(lam), stats.count, rounding=None, ridge=False)
    assert torch.equal(result.codes, rtn.codes)
    assert torch.equal(result.bias, rtn.bias)


def test_a_layer_without_bias_stays_without() -> None:
    problem = make_problem()
    stats, rtn, lam = _prepare(problem)
    bare = type(rtn)(rtn.codes, rtn.grid, None)
    assert reduce_weight_error(bare, problem.weight, stats.system(lam), 60, rounding=None).bias is None


@pytest.mark.parametrize('size', [1, 2, 3, 7, 96, 12544])
def test_halving_covers_every_column_once(size: int) -> None:
    ranges = halving(size)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    assert all(stop > start for start, stop in ranges)


def test_unknown_proxy() -> None:
    problem = make_problem()
    stats, rtn, lam = _prepare(problem)
    with pytest.raises(ValueError, match="proxy must be one of .* got 'exact'"):
        reduce_weight_error(rtn, problem.weight, stats.system(lam), 60, rounding=None, proxy='exact')
