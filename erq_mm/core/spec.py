"""What a quantizer looks like, as a value: bits, granularity, grid and range rule."""

from dataclasses import dataclass, replace

GRANULARITIES = ('tensor', 'channel', 'row')
ACTIVATION_GRIDS = (
    'uniform', 'symmetric', 'log_sqrt2', 'log2', 'adaptive_log', 'adaptive_log_gelu', 'tan', 'twin_softmax',
    'twin_gelu', 'power_of_two_factor', 'pixels', 'channel_uniform', 'levels', 'channel_levels', 'log_normalised',
)  # fmt: skip
CHANNEL_GRIDS = ('channel_uniform', 'channel_levels')  # behind a change of variables that the weight takes in
FOLDED_GRIDS = ('uniform', 'levels')  # of channels whose ranges a LayerNorm takes in
# of the inputs of integer kernels: those of channels stand behind their change of variables
KERNEL_GRIDS = ('uniform', 'symmetric', 'levels', *CHANNEL_GRIDS)
EVEN_GRIDS = {'levels': 'uniform', 'channel_levels': 'channel_uniform'}  # what has a table, and the same without one
WEIGHT_GRIDS = ('uniform', 'symmetric', 'dual_uniform', 'levels')
ACTIVATION_PERCENTILES = (0.999, 0.9999, 0.99999)
WEIGHT_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999, 1.0)
MIN_MAX = (1.0,)
PIXEL_BITS = 8
MOST_TABLE_BITS = 5  # of inputs: of more, levels that lie on a grid of 8 bits are less exact than evenly spaced ones
MOST_WEIGHT_TABLE_BITS = 4  # of more, the grid of 6 bits on which the levels of weights lie is too coarse


@dataclass(frozen=True)
class QuantSpec:
    """One quantizer, before it is fitted.

    Attributes:
        bits: 2 to 8; codes run from 0 to 2**bits - 1.
        granularity: `tensor` is one scale; `channel` one per last dimension of an activation (A in [N, A] gives A
            scales); `row` one per output row of a weight ([out, in] gives scale [out, 1]).
        grid: of an activation one of `ACTIVATION_GRIDS` (see `core/quantizers`), of a weight one of `WEIGHT_GRIDS`.
        percentiles: candidate upper percentiles; the lower one is the complement, the winner has the least squared
            error. `(1.0,)` is the plain minimum and maximum.
        outlier_share: of `dual_uniform`: share of the columns in the outlier group, None for the released rule.
        variant: of grids that have several, see there.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    bits: int
    granularity: str = 'tensor'
    grid: str = 'uniform'
    percentiles: tuple[float, ...] = ACTIVATION_PERCENTILES
    outlier_share: float | None = None
    variant: str = ''

    def __post_init__(self) -> None:
        check_bits('bits', self.bits)
        if self.granularity not in GRANULARITIES:
            raise ValueError(f'granularity must be one of {GRANULARITIES}, got {self.granularity!r}')
        grids = WEIGHT_GRIDS if self.granularity == 'row' else ACTIVATION_GRIDS
        if self.grid not in grids:
            raise ValueError(f'grid must be one of {grids}, got {self.grid!r}')
        if self.grid == 'pixels' and self.bits != PIXEL_BITS:
            raise ValueError(f"grid 'pixels' has {PIXEL_BITS} bits, got {self.bits!r}")
        if self.outlier_share is not None and not 0 <= self.outlier_share < 1:
            raise ValueError(f'outlier_share must be None or in [0, 1), got {self.outlier_share!r}')
        object.__setattr__(self, 'percentiles', tuple(float(p) for p in self.percentiles))
        if not self.percentiles or not all(0.5 < p <= 1 for p in self.percentiles):
            raise ValueError(f'percentiles must be fractions in (0.5, 1], got {self.percentiles!r}')

    @property
    def is_folded(self) -> bool:
        """Whether every channel has a range of its own, which goes into the LayerNorm before it."""
        return self.granularity == 'channel' and self.grid in FOLDED_GRIDS

    @property
    def max_code(self) -> int:
        """The largest code, 2**bits - 1."""
        return 2**self.bits - 1

    def with_even_levels(self) -> 'QuantSpec':
        """Return the spec with evenly spaced levels in place of those of a table, if it has one."""
        return replace(self, grid=EVEN_GRIDS.get(self.grid, self.grid))


def check_bits(name: str, bits: int) -> None:
    """Raise ValueError unless `bits` is an integer from 2 to 8; `name` says whose bits they are."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f'{name} must be an integer from 2 to 8, got {bits!r}')
