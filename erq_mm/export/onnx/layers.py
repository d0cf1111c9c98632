"""Linear layers, convolutions and norms as ONNX operators; quantized ones as Q/DQ around the float operator.

The pattern is QuantizeLinear and DequantizeLinear on the input (uint8, per tensor), DequantizeLinear on the int8 weight
(scale per row, zero point 0), the float operator, then the bias. Engines turn it into one integer kernel. Outputs are
not quantized: the simulation does not, either.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...core.pixel_levels import LARGEST_PIXEL
from ...core.quantizers import PixelQuantizer, Quantizer
from ...core.quantizers.channel_uniform import ChannelUniformQuantizer
from ...core.quantizers.uniform import UniformQuantizer
from ...nn.architectures.base import LAYER_NORM
from ...nn.layers import QuantConv2d, QuantLayer, QuantLinear
from ...nn.recognition import PlainLayer, as_plain_layer, type_name
from .account import FLOAT, INTEGER, Account, LayerRecord
from .codes import (
    ActivationGrid,
    IntegerWeight,
    activation_grid,
    integer_weight,
    why_no_activation_kernel,
    why_no_kernel,
)
from .graph import GraphBuilder
from .supported import Unsupported, expect

TRANSPOSED = ('torch.nn.modules.conv.ConvTranspose2d', 'mmcv.cnn.bricks.wrappers.ConvTranspose2d')
BatchNorm = nn.modules.batchnorm._BatchNorm

INT32 = 6  # of onnx.TensorProto, which is not imported before a graph is written


class LayerWriter:
    """Writes layers into a graph and keeps the account.

    Args:
        graph: receives the nodes.
        names: module -> its name in the detector.
    """

    def __init__(self, graph: GraphBuilder, names: dict[nn.Module, str]) -> None:
        self.graph, self.names = graph, names
        self.account = Account()

    def linear(self, layer: nn.Linear | QuantLinear, x: str, columns: NDArray | None = None) -> str:
        """Write y = x_q W_q^T + b, x of shape (tokens, in).

        Args:
            columns: order in which the weight's columns meet those of `x`; None is their own.
        """
        return self.linear_of_codes(layer, self.input_codes(layer, x, columns), columns=columns)

    def input_codes(self, layer: nn.Linear | QuantLinear, x: str, columns: NDArray | None = None) -> str:
        """Return what `linear_of_codes` takes: the codes of a layer's input, or the input, if the layer runs in float.

        Rows may be dropped and put into another order in between; of codes that moves a quarter of the memory.
        """
        grid, x = self.input_grid(layer), self._changed(layer, x, columns)
        return x if grid is None else self.codes(x, grid)

    def linear_of_codes(
        self,
        layer: nn.Linear | QuantLinear,
        x: str,
        rows: slice = slice(None),
        factor: float = 1.0,
        columns: NDArray | None = None,
    ) -> str:
        """Write a layer behind the codes of its input (its input itself, if the layer runs in float).

        Args:
            rows: of the weight, so of the output: queries, keys and values are rows of one layer.
            factor: the output is multiplied by it, without an operator.
        """
        name = self.names[layer] + ('' if rows.start is None else f':{rows.start}')
        order, grid, factor = slice(None) if columns is None else columns, self.input_grid(layer), np.float32(factor)
        if grid is None:
            plain = _plain(layer)
            weight = self._float_weight(plain.weight.detach().cpu().numpy()[rows][:, order].T * factor, name)
            product = self.graph.add('MatMul', self._float_input(layer, x), weight, name=name)
            bias = None if plain.bias is None else _array(plain.bias, layer.out_features)
        else:
            integer = integer_weight(layer)
            bias = integer.bias
            weight = self._dequantized_weight(integer.codes[rows][:, order].T, integer.scale[rows] * factor, 1, name)
            product = self.graph.add('MatMul', self.dequantized(x, grid), weight, name=name)
        self._record(layer, product)
        if bias is None:
            return product
        return self.graph.add('Add', product, self._float_weight(bias[rows] * factor, name, 'bias'), name=f'{name}.add')

    def conv(self, layer: nn.Conv2d | QuantConv2d, x: str, norm: nn.Module | None = None) -> str:
        """Write a convolution of (images, in, H, W); an evaluated BatchNorm behind it goes into its weight."""
        mode = getattr(layer, 'padding_mode', 'zeros')
        if isinstance(layer.padding, str) or mode != 'zeros':
            raise Unsupported(f'convolution with padding={layer.padding!r}, mode {mode!r}')
        attributes = dict(strides=layer.stride, dilations=layer.dilation, pads=(*layer.padding, *layer.padding))
        attributes |= dict(group=layer.groups, kernel_shape=layer.kernel_size)
        gain, shift = _batch_norm(norm, layer.out_channels)
        name, grid, x = self.names[layer], self.input_grid(layer), self._changed(layer, x, None)
        if grid is None:
            plain = _plain(layer)
            weight = self._float_weight(plain.weight.detach().cpu().numpy() * gain[:, None, None, None], name)
            bias = self._float_weight(_array(plain.bias, layer.out_channels) * gain + shift, name, 'bias')
            product = self.graph.add('Conv', self._float_input(layer, x), weight, bias, name=name, **attributes)
            self._record(layer, product)
            return product
        integer = integer_weight(layer)
        bias = _array(layer.bias, layer.out_channels) * gain + shift
        is_folded = _can_fold(integer, gain)
        if is_folded:
            integer = IntegerWeight(_turned(integer.codes, gain), integer.scale * np.abs(gain), None)
        weight = self._dequantized_weight(integer.codes, integer.scale, 0, name)
        product = self.graph.add('Conv', self.dequantized(self.codes(x, grid), grid), weight, name=name, **attributes)
        self._record(layer, product)
        if not is_folded:
            product = self.graph.add('Mul', product, self._float_weight(gain[:, None, None], name, 'gain'))
        # not int32 in the convolution: with few bits its steps are coarse, and the simulation's bias is float
        bias = self._float_weight(bias[:, None, None], name, 'bias')
        return self.graph.add('Add', product, bias, name=f'{name}.add')

    def deconv(self, layer: nn.ConvTranspose2d, x: str) -> str:
        """Write a transposed convolution, which is float always."""
        if type_name(layer) not in TRANSPOSED:
            raise Unsupported(f'transposed convolution of type {type_name(layer)}')
        name = self.names[layer]
        weight, bias = layer.weight.detach().cpu().numpy(), _array(layer.bias, layer.out_channels)
        pads = (*layer.padding, *layer.padding)
        values = self.graph.constant(weight, f'{name}.weight'), self.graph.constant(bias, f'{name}.bias')
        product = self.graph.add(
            'ConvTranspose', x, *values,
            name=name, strides=layer.stride, pads=pads, output_padding=layer.output_padding, group=layer.groups,
            dilations=layer.dilation, kernel_shape=layer.kernel_size,
        )  # fmt: skip
        self._record(layer, product)
        return product

    def layer_norm(self, norm: nn.LayerNorm, x: str, columns: NDArray | None = None) -> str:
        """Write a LayerNorm over the last dimension; `columns` as in `linear`."""
        expect(norm, LAYER_NORM)
        if norm.bias is None or len(norm.normalized_shape) != 1:
            raise Unsupported(f'{norm}: only norms over channels with weight and bias')
        order = slice(None) if columns is None else columns
        weight, bias = (t.detach().cpu().numpy()[order] for t in (norm.weight, norm.bias))
        name = self.names[norm]
        values = self.graph.constant(weight, f'{name}.weight'), self.graph.constant(bias, f'{name}.bias')
        return self.graph.add('LayerNormalization', x, *values, name=name, axis=-1, epsilon=norm.eps)

    def codes(self, x: str, grid: ActivationGrid) -> str:
        """Return the uint8 codes of `x`; of one value and grid they are computed once."""

        def write() -> str:
            source = x
            if grid.bits < 8:  # QuantizeLinear saturates at 255
                low, high = (self.graph.constant(np.float32(bound), 'bound') for bound in grid.bounds)
                source = self.graph.add('Clip', x, low, high, name=f'{x}/clip')
            codes = self.graph.add('QuantizeLinear', source, *self._scales(grid), name=f'{x}/quantize')
            return codes if grid.table is None else self._looked_up(codes, grid.table)

        return self.graph.once(('codes', x, grid), write)

    def _looked_up(self, codes: str, table: tuple[int, ...]) -> str:
        """Return the code of the nearest level for every code of the finer grid, uint8."""
        values = self.graph.once(('table', table), lambda: self.graph.constant(np.array(table, np.uint8), 'table'))
        places = self.graph.add('Cast', codes, to=INT32, name=f'{codes}/places')
        return self.graph.add('Gather', values, places, name=f'{codes}/levels')

    def dequantized(self, codes: str, grid: ActivationGrid) -> str:
        """Return the values of codes."""

        def write() -> str:
            return self.graph.add('DequantizeLinear', codes, *self._scales(grid), name=f'{codes}/dequantize')

        return self.graph.once(('dequantized', codes, grid), write)

    def input_grid(self, layer: nn.Module) -> ActivationGrid | None:
        """Return the grid of a layer's input, or None if the layer runs in float."""
        runs_in_float = not isinstance(layer, QuantLayer) or why_no_kernel(layer) is not None
        return None if runs_in_float else activation_grid(layer.input_quantizer)

    def _scales(self, grid: ActivationGrid) -> tuple[str, str]:
        scale = self.graph.constant(np.float32(grid.scale), 'input_scale')
        return scale, self.graph.constant(np.uint8(grid.zero_point), 'input_zero_point')

    def _dequantized_weight(self, codes: NDArray, scale: NDArray, axis: int, name: str) -> str:
        def write() -> str:
            value = self.graph.constant(codes, f'{name}.codes')
            scales = self.graph.constant(scale.astype(np.float32), f'{name}.scale')
            zeros = self.graph.constant(np.zeros(len(scale), np.int8), f'{name}.zero_point')
            return self.graph.add('DequantizeLinear', value, scales, zeros, name=f'{name}.weight', axis=axis)

        return self.graph.once(('weight', name), write)  # heads run on several levels

    def _float_weight(self, values: NDArray, name: str, what: str = 'weight') -> str:
        """Return a float constant of a layer; heads that run on several levels share it."""
        return self.graph.once((what, name), lambda: self.graph.constant(values, f'{name}.{what}'))

    def _float_input(self, layer: nn.Module, x: str) -> str:
        """Return the input of a layer that runs in float: fake-quantized if its grid is simulated, else as it is."""
        quantizer = getattr(layer, 'input_quantizer', None)
        if quantizer is None or not _is_simulated(quantizer):
            return x
        if isinstance(quantizer, PixelQuantizer):
            return self._pixels(quantizer, x)
        scale, zero_point = quantizer.numbers['scale'], quantizer.numbers['zero_point']
        add, number = self.graph.add, lambda value: self.graph.constant(np.float32(value), 'grid')
        codes = add('Round', add('Mul', x, number(1 / scale)))
        clipped = add('Clip', codes, number(-zero_point), number(quantizer.spec.max_code - zero_point))
        return add('Mul', clipped, number(scale))

    def _changed(self, layer: nn.Module, x: str, columns: NDArray | None) -> str:
        """Return the input of a layer after the change of variables that its weight takes for granted, if any."""
        quantizer = getattr(layer, 'input_quantizer', None)
        if not isinstance(quantizer, ChannelUniformQuantizer) or not quantizer.is_fitted:
            return x
        order, name = slice(None) if columns is None else columns, self.names[layer]
        ratio, shift = (
            t.detach().cpu().double().numpy()[order].reshape(-1, *(1,) * (-1 - quantizer.axis))
            for t in (quantizer.ratio, quantizer.shift)
        )
        inverse = self._float_weight((1 / ratio).astype(np.float32), name, 'ratio')
        scaled = self.graph.add('Mul', x, inverse, name=f'{name}/scaled')
        if not shift.any():  # that of a padded convolution
            return scaled
        return self.graph.add('Sub', scaled, self._float_weight(shift.astype(np.float32), name, 'shift'))

    def _pixels(self, quantizer: PixelQuantizer, x: str) -> str:
        """Return images, (images, channels, H, W), on the levels of their pixels, by the quantizer's own operations."""
        add, constant = self.graph.add, self.graph.constant
        mean, deviation = (
            constant(values.detach().cpu().numpy().astype(np.float32)[:, None, None], 'pixels')
            for values in (quantizer.mean, quantizer.deviation)
        )
        ends = constant(np.float32(0), 'pixels'), constant(np.float32(LARGEST_PIXEL), 'pixels')
        pixels = add('Clip', add('Round', add('Add', add('Mul', x, deviation), mean)), *ends)
        return add('Div', add('Sub', pixels, mean), deviation)

    def _record(self, layer: nn.Module, product: str) -> None:
        """Add a node to the layer's record."""
        name, node = self.names[layer], product.removesuffix('/y')
        record = next((known for known in self.account.layers if known.name == name), None)
        if record is None:
            record = LayerRecord(name, FLOAT, shape=tuple(layer.weight.shape), reason='not quantized')
            if isinstance(layer, QuantLayer):
                reason = why_no_kernel(layer)
                record.runs_as, record.w_bits = (FLOAT if reason else INTEGER), layer.weight_spec.bits
                record.a_bits = layer.input_quantizer.spec.bits if layer.input_quantizer.is_active else None
                record.reason = reason or ''
                if reason and layer.input_quantizer.is_active and not _is_simulated(layer.input_quantizer):
                    record.reason += '; its input stays float'
            self.account.layers.append(record)
        record.nodes.append(node)


def _is_simulated(quantizer: Quantizer) -> bool:
    """Whether float operators of the graph do what an active quantizer does."""
    if not quantizer.is_active:
        return False
    if isinstance(quantizer, PixelQuantizer):
        return True
    return isinstance(quantizer, UniformQuantizer) and (
        why_no_activation_kernel(quantizer) is None or quantizer.spec.grid in ('uniform', 'symmetric')
    )


def _plain(layer: nn.Module) -> PlainLayer:
    """Return what a layer that runs in float multiplies by."""
    plain = PlainLayer(layer.weight, layer.bias) if isinstance(layer, QuantLayer) else as_plain_layer(layer)
    if isinstance(plain, str):
        raise Unsupported(plain)
    return plain


def _array(bias: torch.Tensor | None, size: int) -> NDArray:
    return np.zeros(size, np.float32) if bias is None else bias.detach().cpu().numpy().astype(np.float32)


def _batch_norm(norm: nn.Module | None, channels: int) -> tuple[NDArray, NDArray]:
    """Return gain and shift, (channels,), of an evaluated BatchNorm; of None one and zero."""
    if norm is None:
        return np.ones(channels, np.float32), np.zeros(channels, np.float32)
    gain = (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach()
    shift = norm.bias.detach().double() - norm.running_mean.double() * gain
    return gain.float().cpu().numpy(), shift.float().cpu().numpy()


def _turned(codes: NDArray, gain: NDArray) -> NDArray:
    """Return convolution codes times the sign of the gain behind them."""
    return np.where((gain < 0)[:, None, None, None], -codes, codes)


def _can_fold(integer: IntegerWeight, gain: NDArray) -> bool:
    """Whether codes times the sign of `gain` are int8 (-128 has no counterpart) and no scale vanishes."""
    turned = integer.codes[gain < 0]
    return bool((gain != 0).all()) and not (turned == -128).any()
