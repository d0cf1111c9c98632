"""What every activation quantizer has in common: a spec, fitted buffers, and an off switch."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..histogram import Histogram
from ..spec import QuantSpec


class Quantizer(nn.Module, ABC):
    """Float tensor in, fake-quantized tensor out; the identity until it is fitted and switched on.

    The fitted parameters are buffers of known shape, so that a checkpoint can be loaded into a fresh model. A scale of
    zero means "not fitted"; loading a fitted state switches the quantizer on. Grids with further parameters register
    further buffers.

    Args:
        spec: bits, grid and range rule.
        channels: size of the last dimension of the inputs; only grids with a parameter per channel use it.

    Attributes:
        numbers: the values of the scalar buffers in main memory, by name: reading the buffers would stop a GPU.
        ignores_zeros: whether `observe` leaves zeros out because they are exact whatever the parameters are.
        offset: added to the values before the scale acts on them: Q(x) = s Q_1((x + offset) / s) - offset.
        scales_negative_values: whether that holds below zero, too; if not, nothing there depends on the scale.
        learns_scale: whether a reconstruction may train the scale.
        learner: what a reconstruction puts in the place of `fake_quantize` (see `learning.Learner`), else None.
    """

    ignores_zeros = False
    offset = 0.0
    scales_negative_values = True
    learns_scale = True
    scale: Tensor
    zero_point: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__()
        self.spec, self.channels = spec, channels
        self.is_active = False
        self.learner: Callable[[Tensor], Tensor] | None = None
        self.numbers: dict[str, float] = {}
        self.register_number('scale')
        self.register_number('zero_point')

    def register_number(self, name: str, value: float = 0.0) -> None:
        """Register a scalar buffer, and the same number in `numbers`."""
        self.register_buffer(name, torch.tensor(value))
        self.numbers[name] = value

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` or `load_state_dict` has given the scale a value."""
        return self.numbers['scale'] > 0

    @abstractmethod
    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Add `x`, of any shape, to the running statistics from which `fit` chooses the range."""

    @abstractmethod
    def fit(self, histogram: Histogram) -> None:
        """Choose the parameters of least squared error among the candidates of the spec."""

    @abstractmethod
    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return `x` rounded to the grid, in the shape and dtype of `x`; does not change `x`."""

    @abstractmethod
    def bounds(self) -> tuple[float | Tensor, float | Tensor]:
        """Return the smallest and the largest value of the grid, numbers or one per channel; beyond, it clips."""

    def coordinates(self, x: Tensor) -> Tensor:
        """Return `x`, (..., channels), in the coordinates in which its values on the grid are given."""
        return x

    def set_parameters(self, scale: Tensor | float, zero_point: Tensor | float = 0.0) -> None:
        """Store fitted parameters (scalars) in the buffers."""
        self.store(scale=float(scale), zero_point=float(zero_point))

    def set_scale(self, scale: Tensor | float) -> None:
        """Change the scale alone; the other parameters stay."""
        self.store(scale=float(scale))

    def store(self, **numbers: float) -> None:
        """Put numbers into the scalar buffers of these names; `numbers` gets them as the buffers' dtype rounds them."""
        for name, number in numbers.items():
            buffer = self.get_buffer(name)
            self.numbers[name] = torch.tensor(number, dtype=buffer.dtype).item()
            buffer.fill_(number)
        self.derive()

    def refresh(self) -> None:
        """Take over what the buffers say, after they were changed by others."""
        values = torch.stack([self.get_buffer(name) for name in self.numbers]).tolist()  # one transfer
        self.numbers = dict(zip(self.numbers, values, strict=True))
        self.derive()

    def derive(self) -> None:
        """Recompute what follows from `numbers`; called whenever they change."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_active:
            return x
        return self.fake_quantize(x) if self.learner is None else self.learner(x)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.refresh()
        self.is_active = self.is_fitted

    def extra_repr(self) -> str:
        return f'{self.spec.grid}, {self.spec.bits} bit, {self.spec.granularity}'
