"""`nn.Linear` and `nn.Conv2d` with a quantizer on the input and weights that lie on a grid after calibration."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.quantizers import Quantizer, build_quantizer
from ..core.quantizers.channel_uniform import ChannelUniformQuantizer
from ..core.spec import QuantSpec
from ..core.weight_grid import FINER, QuantizedWeight, WeightGrid
from .recognition import as_plain_layer

ROWS_PER_CHUNK = 8192


class QuantizedModule(nn.Module):
    """What stands where a float layer stood: a model that has one is quantized already."""


class QuantLayer(QuantizedModule, ABC):
    """What linear and convolution layers share.

    The float layer's `weight` and `bias` are taken over, under their names; of a layer whose forward makes its weight
    from others (standardised, parametrized), the one that it makes. After calibration the weight holds the
    fake-quantized values once and for all; the buffers `weight_scale` and `weight_zero_point`, (out, groups), give the
    codes back, for grids of two groups with `weight_group`, (in,), and for levels with `weight_table`, (2**bits,). A
    weight scale of zero says that the layer still has float weights.

    Args:
        layer: the float layer.
        weight_spec, input_spec: the two quantizers.
        create_bias: give the layer a zero bias if it has none, for corrections that need one.

    Attributes:
        channel_axis: negative, of its input.
    """

    channel_axis = -1
    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_scale: Tensor
    weight_zero_point: Tensor
    weight_group: Tensor | None
    weight_table: Tensor | None

    def __init__(
        self, layer: nn.Module, weight_spec: QuantSpec, input_spec: QuantSpec, create_bias: bool = False
    ) -> None:
        super().__init__()
        plain = as_plain_layer(layer)
        if isinstance(plain, str):
            raise ValueError(f'not to be quantized: {plain}')
        self.weight = as_parameter(plain.weight)
        self.bias = None if plain.bias is None else as_parameter(plain.bias)
        if self.bias is None and create_bias:
            self.bias = nn.Parameter(torch.zeros_like(self.weight[(slice(None),) + (0,) * (self.weight.dim() - 1)]))
        self.weight_spec = weight_spec
        self.input_quantizer: Quantizer = build_quantizer(input_spec, self.weight.shape[1], self.weight.device)
        dual = weight_spec.grid == 'dual_uniform'
        per_row = self.weight.new_zeros(len(self.weight), 2 if dual else 1)
        self.register_buffer('weight_scale', per_row)
        self.register_buffer('weight_zero_point', per_row.clone())
        columns = self.weight[0].numel()
        self.register_buffer(
            'weight_group', torch.zeros(columns, dtype=torch.long, device=self.weight.device) if dual else None
        )
        table = torch.zeros(2**weight_spec.bits, dtype=torch.uint8, device=self.weight.device)
        self.register_buffer('weight_table', table if weight_spec.grid == 'levels' else None)
        if layer._forward_hooks:  # the same dictionary: handles that remove hooks keep working
            self._forward_hooks = layer._forward_hooks
        self.train(layer.training)

    @property
    def has_quantized_weight(self) -> bool:
        """Whether `install_` or a checkpoint has put the weight on its grid."""
        return bool((self.weight_scale > 0).all())

    @property
    def weight_grid(self) -> WeightGrid:
        """The grid that the weight has been put on."""
        table, max_code = self.weight_table, self.weight_spec.max_code
        if table is not None:
            table, max_code = table.to(self.weight_scale.dtype), max_code * FINER
        return WeightGrid(self.weight_scale, self.weight_zero_point, max_code, self.weight_group, table)

    def weight_matrix(self) -> Tensor:
        """Return the weight as (out, inputs per output)."""
        return self.weight.detach().flatten(1)

    @torch.no_grad()
    def change_(self, weight_change: Tensor, bias_change: Tensor | None) -> None:
        """Add to the float weight, (out, in) as in `weight_matrix`, and to the bias."""
        self.weight += weight_change.view_as(self.weight)
        if self.bias is not None and bias_change is not None:
            self.bias += bias_change

    @torch.no_grad()
    def install_(self, quantized: QuantizedWeight) -> None:
        """Store the fake-quantized weight, its grid and its bias."""
        self.weight.copy_(quantized.weight.view_as(self.weight))
        self.weight_scale.copy_(quantized.grid.scale)
        self.weight_zero_point.copy_(quantized.grid.zero_point)
        if self.weight_group is not None:
            self.weight_group.copy_(quantized.grid.group)
        if self.weight_table is not None:
            self.weight_table.copy_(quantized.grid.table)
        if self.bias is not None and quantized.bias is not None:
            self.bias.copy_(quantized.bias)

    @property
    def needs_zero(self) -> bool:
        """Whether zeros join the input behind its quantizer, so that zero must stay zero."""
        return False

    @abstractmethod
    def rows(self, x: Tensor) -> Iterator[Tensor]:
        """Yield an input of the layer as chunks of rows, (rows, in), that `weight_matrix` multiplies."""

    def per_channel(self, columns: Tensor) -> Tensor:
        """Return what columns of rows (..., in) hold as (taps, ..., channels): of a linear layer there is one tap."""
        return columns[None]

    def quantized_rows(self, rows: Tensor) -> Tensor:
        """Return rows on the grid of the input, as the layer's product sees them."""
        return self.input_quantizer.fake_quantize(rows)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, unexpected: list, errors: list
    ) -> None:
        absent = [name for name in ('weight_scale', 'input_quantizer.scale') if prefix + name not in state_dict]
        if absent and prefix + 'weight' in state_dict:
            raise ValueError(
                f'{prefix[:-1]} is quantized and the checkpoint is not: it lacks {[prefix + name for name in absent]}. '
                'Load a float checkpoint before the model is quantized, or a quantized one after.'
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


class QuantLinear(QuantLayer):
    """y = x_q W_q^T + b."""

    def __init__(
        self, layer: nn.Linear, weight_spec: QuantSpec, input_spec: QuantSpec, create_bias: bool = False
    ) -> None:
        super().__init__(layer, weight_spec, input_spec, create_bias)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.input_quantizer(x), self.weight, self.bias)

    def rows(self, x: Tensor) -> Iterator[Tensor]:
        yield from x.reshape(-1, x.shape[-1]).split(ROWS_PER_CHUNK)

    def extra_repr(self) -> str:
        return f'{self.in_features}, {self.out_features}, {self.weight_spec.bits} bit weight'


class QuantConv2d(QuantLayer):
    """Convolution of the quantized input; the zeros it pads with are on the grid, so padding commutes with rounding.

    Of exact pixels they are not, but within half a level of it; those that it pads with itself stay zeros.
    """

    channel_axis = -3

    def __init__(
        self, layer: nn.Conv2d, weight_spec: QuantSpec, input_spec: QuantSpec, create_bias: bool = False
    ) -> None:
        super().__init__(layer, weight_spec, input_spec, create_bias)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.kernel_size, self.groups = layer.kernel_size, layer.groups
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        if isinstance(self.input_quantizer, ChannelUniformQuantizer):
            self.input_quantizer.axis = self.channel_axis

    @property
    def needs_zero(self) -> bool:
        return any(self.padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.input_quantizer(x), self.weight, self.bias, self.stride, self.padding, self.dilation)

    def rows(self, x: Tensor) -> Iterator[Tensor]:
        """Yield im2col patches, (rows, in_channels * kh * kw), a few output lines of one image at a time."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        x = F.pad(x, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        reach = dh * (kh - 1) + 1
        out_height, out_width = (x.shape[2] - reach) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
        lines = max(1, ROWS_PER_CHUNK // max(out_width, 1))
        for image in (x[index : index + 1] for index in range(len(x))):
            for first in range(0, out_height, lines):
                last = min(first + lines, out_height) - 1
                strip = image[:, :, first * sh : last * sh + reach]
                patches = F.unfold(strip, self.kernel_size, dilation=self.dilation, stride=self.stride)
                yield patches[0].T.contiguous()

    def per_channel(self, columns: Tensor) -> Tensor:
        return columns.unflatten(-1, (self.in_channels, -1)).movedim(-1, 0)

    def quantized_rows(self, rows: Tensor) -> Tensor:
        images = rows.view(len(rows), self.in_channels, -1, 1)
        return self.input_quantizer.fake_quantize(images).view(rows.shape)

    def extra_repr(self) -> str:
        return f'{self.in_channels}, {self.out_channels}, {self.kernel_size}, {self.weight_spec.bits} bit weight'


def why_not_quantizable(layer: nn.Module) -> str | None:
    """Return the reason why a layer must stay float, or None."""
    if isinstance(layer, nn.ConvTranspose2d):
        return 'transposed convolution: float in all published protocols, its im2col rows overlap in the output'
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f'grouped convolution (groups={layer.groups}): its inputs are not one matrix'
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != 'zeros' or isinstance(layer.padding, str)):
        return (
            f'convolution with padding={layer.padding!r}, mode {layer.padding_mode!r}: only explicit zeros are handled'
        )
    plain = as_plain_layer(layer)
    return plain if isinstance(plain, str) else None


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """Return a tensor as a parameter, the same one if it is one."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
