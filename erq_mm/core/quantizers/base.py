"""What every activation quantizer has in common: a spec, fitted buffers, and an off switch."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..histogram import Histogram
from ..spec import QuantSpec


class Quantizer(nn.Module, ABC):
    """Float tensor in, fake-quantized tensor out; the identity until it is fitted and switched on.

    The fitted parameters are buffers of known shape, so that a checkpoint can be loaded into a fresh model. A scale of
    zero means "not fitted"; loading a fitted state switches the quantizer on.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.is_active = False
        self.register_buffer('scale', torch.zeros(()))
        self.register_buffer('zero_point', torch.zeros(()))

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` or `load_state_dict` has given the scale a value."""
        return bool(self.scale > 0)

    @abstractmethod
    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Add `x`, of any shape, to the running statistics from which `fit` chooses the range."""

    @abstractmethod
    def fit(self, histogram: Histogram) -> None:
        """Choose the parameters of least squared error among the candidates of the spec."""

    @abstractmethod
    def fake_quantize(self, x: Tensor) -> Tensor:
        """Return `x` rounded to the grid, in the shape and dtype of `x`; does not change `x`."""

    def set_parameters(self, scale: Tensor | float, zero_point: Tensor | float = 0.0) -> None:
        """Store fitted parameters (scalars) in the buffers."""
        self.scale.fill_(float(scale))
        self.zero_point.fill_(float(zero_point))
        self.refresh()

    def refresh(self) -> None:
        """Recompute what is derived from the buffers; called whenever they change."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fake_quantize(x) if self.is_active else x

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.refresh()
        self.is_active = self.is_fitted

    def extra_repr(self) -> str:
        return f'{self.spec.grid}, {self.spec.bits} bit, {self.spec.granularity}'
