"""Grids of weights: one affine grid per output row, two where outlier columns have their own (ERQ, TPAMI 2025), one
symmetric grid for several rows (PTQ4ViT), or levels that are some of those of a finer affine grid, by a table."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .quantizers.uniform import decode, encode
from .scale_search import search_weight_range, symmetric_scale
from .spec import QuantSpec

RELEASED_COLUMNS = 20  # the released code takes out_features // 20 columns
UPPER, LOWER = 0.99, 0.01
# steps of the finer grid of a table between even levels: codes of 4 bits are at most 60 apart, and on CPUs that
# add two products with inputs of 8 bits in 16 bits 2 * 255 * 60 is exact
FINER = 4
ROW_GROUPS = {'': None, 'layer': 1, 'thirds': 3}  # of a symmetric grid: variant -> groups of rows with one scale


@dataclass(frozen=True)
class WeightGrid:
    """Where the values of a weight (out, in) may lie.

    Attributes:
        scale, zero_point: (out, groups).
        max_code: codes run from 0 to this.
        group: (in,), the group of every column, int64; None when there is one group.
        table: codes that may be taken, ascending, (2**bits,); None where all may.
    """

    scale: Tensor
    zero_point: Tensor
    max_code: int
    group: Tensor | None = None
    table: Tensor | None = None

    def scale_of(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the scales of columns [start, stop), to broadcast against them."""
        return self.scale if self.group is None else self.scale[:, self.group[start:stop]]

    def zero_point_of(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the zero points of columns [start, stop), to broadcast against them."""
        return self.zero_point if self.group is None else self.zero_point[:, self.group[start:stop]]

    def encode(self, weight: Tensor, start: int = 0) -> Tensor:
        """Return the nearest codes, 0..max_code, of columns [start, start + width)."""
        stop = start + weight.shape[1]
        scale, zero_point = self.scale_of(start, stop), self.zero_point_of(start, stop)
        if self.table is not None:
            return self.nearest_(weight / scale + zero_point)
        return encode(weight, scale, zero_point, self.max_code)

    def refuse_table(self, method: str) -> None:
        """Raise ValueError if there is a table: `method` takes all codes for levels."""
        if self.table is not None:
            raise ValueError(
                f"{method} moves weights between neighbouring codes, grid 'levels' has a table: take 'uniform'"
            )

    def nearest_(self, codes: Tensor) -> Tensor:
        """Return the nearest codes that may be taken to real ones, which are written; of two levels the smaller."""
        if self.table is None:
            return codes.round_().clamp_(0, self.max_code)
        places = codes.mul_(2).ceil_().clamp_(1, 2 * self.max_code).to(torch.int32)
        return self._nearest.to(codes.dtype).index_select(0, places.reshape(-1)).view(codes.shape)

    @cached_property
    def _nearest(self) -> Tensor:
        """The nearest code that may be taken to real ones up to 0, 1/2, 1 and so on.

        Between these it is the same, and looking it up is ten times as fast as searching the table.
        """
        middles = (self.table[1:] + self.table[:-1]) / 2
        halves = torch.arange(2 * self.max_code + 1, device=self.table.device, dtype=self.table.dtype) / 2
        return self.table[torch.bucketize(halves, middles)]

    def nearest_steps_(self, steps: Tensor, zero_point: Tensor) -> Tensor:
        """Return the nearest codes to weights of so many steps, which are written."""
        if self.table is None:
            return steps.round_().add_(zero_point).clamp_(0, self.max_code)
        return self.nearest_(steps.add_(zero_point))

    def decode(self, codes: Tensor, start: int = 0) -> Tensor:
        """Return the values of codes of columns [start, start + width)."""
        stop = start + codes.shape[1]
        return decode(codes, self.scale_of(start, stop), self.zero_point_of(start, stop))

    def to(self, other: torch.dtype | torch.device) -> 'WeightGrid':
        """Return the grid in another dtype or on another device."""
        group = self.group if self.group is None or isinstance(other, torch.dtype) else self.group.to(other)
        table = None if self.table is None else self.table.to(other)
        return WeightGrid(self.scale.to(other), self.zero_point.to(other), self.max_code, group, table)


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes on a grid, and the bias the corrections arrived at.

    Attributes:
        codes: 0..max_code, (out, in), float.
        bias: (out,), or None.
    """

    codes: Tensor
    grid: WeightGrid
    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The fake-quantized weight, (out, in)."""
        return self.grid.decode(self.codes)


def round_to_nearest(weight: Tensor, bias: Tensor | None, grid: WeightGrid) -> QuantizedWeight:
    """Return the plainly rounded weight."""
    return QuantizedWeight(grid.encode(weight), grid, bias)


def fit_weight_grid(weight: Tensor, spec: QuantSpec) -> WeightGrid:
    """Return the grid of least squared error among the candidates of the spec; `weight` is (out, in).

    Levels are evenly spaced: who knows how errors count chooses others (`weight_levels`).
    """
    if spec.grid == 'dual_uniform':
        return _fit_dual(weight, spec)
    if spec.grid == 'symmetric':
        return _fit_symmetric(weight, spec)
    grid = WeightGrid(*search_weight_range(weight, spec), spec.max_code)
    return with_table(grid) if spec.grid == 'levels' else grid


def with_table(grid: WeightGrid) -> WeightGrid:
    """Return a uniform grid of one group as evenly spaced levels of a finer one."""
    levels = torch.arange(grid.max_code + 1, device=grid.scale.device, dtype=grid.scale.dtype)
    return WeightGrid(grid.scale / FINER, grid.zero_point * FINER, grid.max_code * FINER, table=levels * FINER)


def row_groups(rows: int, variant: str) -> Tensor:
    """Return to which scale of a symmetric grid every output row belongs, int64 (rows,).

    Args:
        variant: empty for a scale per row, `layer` for one, `thirds` for one each of queries, keys and values.

    Raises:
        ValueError: another variant.
    """
    if variant not in ROW_GROUPS:
        raise ValueError(f"variant of grid 'symmetric' must be one of {tuple(ROW_GROUPS)}, got {variant!r}")
    groups = ROW_GROUPS[variant] or rows
    return torch.arange(rows) * groups // max(rows, 1)


def _fit_symmetric(weight: Tensor, spec: QuantSpec) -> WeightGrid:
    """Return the first grid of PTQ4ViT: codes around 2**(b - 1), a scale that just reaches the largest magnitude."""
    group = row_groups(len(weight), spec.variant).to(weight.device)
    largest = weight.new_zeros(len(weight)).scatter_reduce_(0, group, weight.abs().amax(1), 'amax')
    scale = symmetric_scale(largest[group], spec.bits)[:, None]
    return WeightGrid(scale, torch.full_like(scale, 2 ** (spec.bits - 1)), spec.max_code)


def _fit_dual(weight: Tensor, spec: QuantSpec) -> WeightGrid:
    group = outlier_columns(weight, spec.outlier_share).long()
    scales, zero_points = [], []
    for index in (0, 1):
        columns = weight[:, group == index]
        if columns.shape[1] == 0:  # no outliers, or nothing else: both groups get the one grid there is
            columns = weight
        scale, zero_point = search_weight_range(columns, spec)
        scales.append(scale)
        zero_points.append(zero_point)
    return WeightGrid(torch.cat(scales, 1), torch.cat(zero_points, 1), spec.max_code, group)


def outlier_columns(weight: Tensor, share: float | None) -> Tensor:
    """Return which columns of a weight (out, in) hold its outliers, bool (in,).

    An entry is an outlier of its row when it lies above the 99th percentile of the row's positive entries or below the
    1st of its negative ones; the columns with most of them are taken, the leftmost on a tie.

    Args:
        share: the share of the columns to take; None takes out // 20 of them, as the released code does (hence 15 % for
            a qkv layer and 20 % for fc1).
    """
    positive, negative = weight.where(weight > 0, torch.nan), weight.where(weight < 0, torch.nan)
    high, low = (t.double().nanquantile(q, dim=1, keepdim=True) for t, q in ((positive, UPPER), (negative, LOWER)))
    votes = ((weight > high) | (weight < low)).sum(0)
    size = weight.shape[1]
    wanted = weight.shape[0] // RELEASED_COLUMNS if share is None else round(share * size)
    chosen = torch.zeros(size, dtype=torch.bool, device=weight.device)
    chosen[votes.argsort(descending=True, stable=True)[: min(wanted, size)]] = True
    return chosen
