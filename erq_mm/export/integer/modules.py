"""Layers that run as integers: float tensor in, codes, int8 product, float tensor out."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ...nn.layers import QuantConv2d, QuantizedModule, QuantLayer, QuantLinear
from . import operators
from .codes import InputGrid, IntegerWeight

CHUNK = 2**17  # values that are quantized at a time: 512 KiB stay in the cache from the first pass to the last


def encode_(codes: Tensor, x: Tensor, grid: InputGrid) -> None:
    """Write the codes of `x` into the uint8 tensor `codes`: exactly those that the simulation has.

    clamp(round(y / s), -z, max - z) + z with the simulation's own operations, then the table of levels if the grid has
    one, in slices of the first dimension, or of the second where one entry of the first is large.
    """
    size = x[:1].numel()
    if size > CHUNK and x.dim() > 2:
        for part, entry in zip(codes, x, strict=True):
            encode_(part, entry, grid)
        return
    low, high = -grid.zero_point, grid.max_code - grid.zero_point
    step = max(1, CHUNK // max(size, 1))
    # torch converts float32 to int8 several times as fast as to uint8; flipping the top bit adds 128
    for part, values in zip(codes.view(torch.int8).split(step), x.split(step), strict=True):
        part.copy_(grid.steps(values).round_().clamp_(low, high).add_(grid.zero_point - 128))
    codes.bitwise_xor_(128)
    if grid.table is not None:
        for part in codes.split(step):
            part.copy_(grid.table.index_select(0, part.reshape(-1).to(torch.int32)).view(part.shape))


class IntegerLayer(QuantizedModule, ABC):
    """A quantized layer whose product is one of integers. Runs on CPUs, in float32, without gradients.

    NaN has no code: where a simulated layer passes it on, this one gives numbers.

    Args:
        layer: the simulated layer; its bias is shared, its float weight is not kept.
        weight, grid: what `codes` says of it.

    Attributes:
        codes: int8 in the shape of the weight.
        scale: (out,).
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, layer: QuantLayer, weight: IntegerWeight, grid: InputGrid) -> None:
        super().__init__()
        self.grid, self.bits, self.bias = grid, (layer.weight_spec.bits, layer.input_quantizer.spec.bits), layer.bias
        self.register_buffer('codes', weight.codes)
        self.register_buffer('scale', weight.scale)
        self.register_buffer('zero_points', torch.zeros(len(weight.codes), dtype=torch.int8), persistent=False)
        self._packed: Tensor | None = None
        if layer._forward_hooks:  # the same dictionary: handles that remove hooks keep working
            self._forward_hooks = layer._forward_hooks
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The weight that the codes stand for, made anew, for code that looks at it."""
        return self.codes * self.scale.view(-1, *(1,) * (self.codes.dim() - 1))

    @abstractmethod
    def _pack(self) -> Tensor:
        """Return the codes in the order in which kernels read them."""

    def packed(self) -> Tensor:
        """Return the packed codes, packed at the first call.

        Raises:
            RuntimeError: the layer was moved off the CPU.
        """
        if self.codes.device.type != 'cpu':
            raise RuntimeError(f'integer layers run on CPUs only, this one was moved to {self.codes.device}')
        if self._packed is None:
            self._packed = self._pack()
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_packed': None}  # an opaque tensor, which can be neither copied nor pickled

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._packed = None

    def _bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias.detach()


class IntegerLinear(IntegerLayer):
    """Takes the place of a `QuantLinear`."""

    def __init__(self, layer: QuantLinear, weight: IntegerWeight, grid: InputGrid) -> None:
        super().__init__(layer, weight, grid)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def _pack(self) -> Tensor:
        return operators.pack_linear(IntegerWeight(self.codes, self.scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = x.detach().reshape(-1, self.in_features).float()
        if not len(rows):
            return x.new_zeros(*x.shape[:-1], self.out_features)
        return self.product(self.encode(rows)).view(*x.shape[:-1], self.out_features)

    def encode(self, rows: Tensor) -> Tensor:
        """Return the codes, uint8, of float32 (rows, in)."""
        codes = torch.empty(rows.shape, dtype=torch.uint8)
        encode_(codes, rows, self.grid)
        return codes

    def product(self, codes: Tensor) -> Tensor:
        """Map codes of at least one row to float32 (rows, out)."""
        return operators.linear(codes, self.grid, self.packed(), self.scale, self.zero_points, self._bias())

    def activated_codes(self, codes: Tensor, activation: str, grid: InputGrid) -> Tensor:
        """Map codes of at least one row to those of the activated output on the grid of the next layer.

        Args:
            activation: of `operators.ACTIVATIONS`.
            grid: of the next layer.
        """
        own = self.grid, self.packed(), self.scale, self.zero_points, self._bias()
        return operators.activated_linear(codes, *own, activation, grid)

    def extra_repr(self) -> str:
        return f'{self.in_features}, {self.out_features}, integer W{self.bits[0]}A{self.bits[1]}'


class IntegerConv2d(IntegerLayer):
    """Takes the place of a `QuantConv2d`.

    Args:
        layer, weight, grid: as of `IntegerLayer`.
        channels_last: return the memory order that kernels write, whatever that of the input is. Saves a copy of every
            output; for models in which nothing reads tensors as if they were contiguous, as mmcv's operators do.
    """

    def __init__(self, layer: QuantConv2d, weight: IntegerWeight, grid: InputGrid, channels_last: bool = False) -> None:
        super().__init__(layer, weight, grid)
        self.geometry = tuple(tuple(sizes) for sizes in (layer.stride, layer.padding, layer.dilation))
        self.stride, self.padding, self.dilation = self.geometry
        self.kernel_size, self.groups, self.channels_last = layer.kernel_size, layer.groups, channels_last
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels

    def _pack(self) -> Tensor:
        return operators.pack_conv(IntegerWeight(self.codes, self.scale), self.grid, self.geometry)

    def forward(self, x: Tensor) -> Tensor:
        """Map (images, in, height, width), or one image without its first dimension."""
        if x.dim() == 3:
            return self(x[None])[0]
        packed = self.packed()
        if not x.numel():
            return x.new_zeros(len(x), self.out_channels, *self._output_size(*x.shape[2:]))
        lines = x.detach().float().permute(0, 2, 3, 1)  # the order of the codes: channels last
        codes = torch.empty(lines.shape, dtype=torch.uint8)
        encode_(codes, lines, self.grid)
        output = operators.conv(
            codes.permute(0, 3, 1, 2), self.grid, packed, self.scale, self.zero_points, self._bias(), self.geometry
        )
        return output if self.channels_last or _is_channels_last(x) else _channels_first(output)

    def _output_size(self, height: int, width: int) -> list[int]:
        sides = zip((height, width), self.kernel_size, *self.geometry, strict=True)
        return [
            max(0, (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
            for size, kernel, stride, padding, dilation in sides
        ]

    def extra_repr(self) -> str:
        return f'{self.in_channels}, {self.out_channels}, {self.kernel_size}, integer W{self.bits[0]}A{self.bits[1]}'


def _channels_first(x: Tensor) -> Tensor:
    """Return a contiguous copy of a channels-last tensor, image by image: torch transposes matrices faster."""
    output = torch.empty(x.shape)
    for image, target in zip(x, output, strict=True):
        target.flatten(1).copy_(image.permute(1, 2, 0).flatten(0, 1).t())
    return output


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
