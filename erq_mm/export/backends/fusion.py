"""Integer kernels of ONNX Runtime, asked for by name.

Left alone, ONNX Runtime first fuses MatMul and the bias into a float Gemm and then unpacks the int8 weights in every
run: slower than float. So linear layers become `MatMulIntegerToFloat`, which adds the bias itself; convolutions whose
output the next quantizer takes become `QLinearConv`, all others one product of gathered codes.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from .rewriting import Rewriter

DOMAIN = 'com.microsoft'
LAST = 2**63 - 1


def fuse_integer_layers(model: Any, unsigned: Collection[str]) -> Any:
    """Return the graph with integer operators in the place of Q/DQ patterns.

    Args:
        model: as exported; not changed.
        unsigned: nodes whose codes get 128 added, and the kernels that as zero point: exact on CPUs where products of
            uint8 and int8 saturate, and slower.
    """
    writer = _Writer(model, unsigned)
    for node, activation, weight in writer.graph.integer_products():
        if node.op_type == 'MatMul':
            writer.fuse_linear(node, activation, weight)
        else:
            writer.fuse_conv(node, activation, weight)
    return writer.model()


class _Writer(Rewriter):
    def __init__(self, model: Any, unsigned: Collection[str]) -> None:
        super().__init__(model)
        self.unsigned = set(unsigned)

    def fuse_linear(self, node: Any, activation: Any, weight: Any) -> None:
        add = self._only_bias(node)
        bias, result = ('', node.output[0]) if add is None else (add.input[1], add.output[0])
        codes, zeros = self._weight(node, weight)
        inputs = [activation.input[0], codes, activation.input[1], weight.input[1], activation.input[2], zeros, bias]
        fused = self.helper.make_node('MatMulIntegerToFloat', inputs, [result], name=node.name, domain=DOMAIN)
        self.replaced[node.name] = [fused]
        if add is not None:
            self.replaced[add.name] = []

    def fuse_conv(self, node: Any, activation: Any, weight: Any) -> None:
        """QLinearConv where its output is quantized, else one product; dilated ones are left, and run in float."""
        add = self._only_bias(node)
        way = None if add is None else self._way_to_codes(add.output[0])
        dilations = next(list(a.ints) for a in node.attribute if a.name == 'dilations')
        if way is None and dilations == [1, 1]:
            self._write_product(node, activation, weight, add)
        elif way is not None:
            self._write_qlinear(node, activation, weight, add, way)

    def _way_to_codes(self, value: str) -> list[Any] | None:
        """Return the nodes between a value and its codes, [Relu], [Clip], QuantizeLinear, if these are its only use."""
        way: list[Any] = []
        while not way or way[-1].op_type != 'QuantizeLinear':
            users = self.users.get(value, [])
            if len(users) != 1 or users[0].op_type not in ('Relu', 'Clip', 'QuantizeLinear'):
                return None
            way.append(users[0])
            value = users[0].output[0]
        return way

    def _write_qlinear(self, node: Any, activation: Any, weight: Any, add: Any, way: list[Any]) -> None:
        """Let the convolution give the next layer's codes; its bias is in int32, up to half a step of its sums away."""
        codes, zeros = self._weight(node, weight)
        step = self.graph.constant(weight.input[1]).astype(np.float64) * self.graph.constant(activation.input[1])
        steps = np.clip(np.round(self.graph.constant(add.input[1]).reshape(-1) / step), -(2**31), 2**31 - 1)
        name, make, (*before, quantize) = node.name, self.helper.make_node, way
        bias = self.constant(f'{name}.bias_codes', steps.astype(np.int32))
        inputs = [
            activation.input[0],
            *activation.input[1:3],
            codes,
            weight.input[1],
            zeros,
            *quantize.input[1:3],
            bias,
        ]
        low, high = self._code_bounds(before, quantize)
        is_clipped = (low, high) != (0, 255)  # the kernel itself saturates at these
        conv = make('QLinearConv', inputs, [f'{name}/codes' if is_clipped else quantize.output[0]], name=name)
        conv.attribute.extend(node.attribute)
        self.replaced |= {other.name: [] for other in (add, *way)} | {name: [conv]}
        if is_clipped:
            bounds = [self.constant(f'{name}.code{value}', np.array(value, np.uint8)) for value in (low, high)]
            clip = make('Clip', [f'{name}/codes', *bounds], [quantize.output[0]], name=f'{name}/clip')
            self.replaced[name].append(clip)

    def _code_bounds(self, before: list[Any], quantize: Any) -> tuple[int, int]:
        """Return between which codes ReLU and Clip leave the output."""
        zero = int(self.graph.constant(quantize.input[2]))
        scale = float(self.graph.constant(quantize.input[1]))
        low, high = 0, 255
        for node in before:
            if node.op_type == 'Relu':
                low = max(low, zero)
            else:
                ends = (float(self.graph.constant(value)) / scale + zero for value in node.input[1:3])
                low, high = (round(end) for end in ends) if low == 0 else (low, round(list(ends)[1]))
        return low, high

    def _write_product(self, node: Any, activation: Any, weight: Any, add: Any | None) -> None:
        """A convolution as one product: codes of every place of the kernel side by side, pixels as rows.

        `ConvInteger` would be the operator, but its kernel is several times slower than a float convolution.
        """
        attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
        (kh, kw), (sh, sw), pads = attributes['kernel_shape'], attributes['strides'], attributes['pads']
        name, make, number = node.name, self.helper.make_node, self._integers
        make_pads = number(f'{name}.pads', [0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0])
        nodes = [make('Transpose', [activation.input[0]], [f'{name}/nhwc'], name=f'{name}/nhwc', perm=[0, 2, 3, 1])]
        x = f'{name}/nhwc'
        if any(pads):
            nodes.append(make('Pad', [x, make_pads, activation.input[2]], [f'{name}/padded'], name=f'{name}/pad'))
            x = f'{name}/padded'
        places = []
        for i, j in ((i, j) for i in range(kh) for j in range(kw)):
            stops = [at - size + 1 if at < size - 1 else LAST for at, size in ((i, kh), (j, kw))]
            ends = [number(f'{name}.start{i}.{j}', [i, j]), number(f'{name}.stop{i}.{j}', stops)]
            axes = [number('axes12', [1, 2]), number(f'{name}.steps', [sh, sw])]
            places.append(f'{name}/place{i}.{j}')
            nodes.append(make('Slice', [x, *ends, *axes], [places[-1]], name=places[-1]))
        nodes.append(make('Concat', places, [f'{name}/rows'], name=f'{name}/rows', axis=3))
        codes, zeros = self._weight_matrix(node, weight)
        bias = '' if add is None else self.constant(f'{name}.flat_bias', self.graph.constant(add.input[1]).reshape(-1))
        scales = [activation.input[1], weight.input[1], activation.input[2], zeros, bias]
        nodes += [
            make('MatMulIntegerToFloat', [f'{name}/rows', codes, *scales], [f'{name}/m'], name=name, domain=DOMAIN),
            make('Transpose', [f'{name}/m'], [(add or node).output[0]], name=f'{name}/nchw', perm=[0, 3, 1, 2]),
        ]
        self.replaced[name] = nodes
        if add is not None:
            self.replaced[add.name] = []

    def _weight_matrix(self, node: Any, dequantize: Any) -> tuple[str, str]:
        """Return the codes of a convolution as (kh kw in, out), and their zero points."""
        codes = self.graph.constant(dequantize.input[0])
        matrix = codes.transpose(2, 3, 1, 0).reshape(-1, len(codes))
        kind, zero = (np.uint8, 128) if node.name in self.unsigned else (np.int8, 0)
        moved = self.constant(
            f'{node.name}.matrix', np.ascontiguousarray((matrix.astype(np.int16) + zero).astype(kind))
        )
        return moved, self.constant(f'{node.name}.matrix_zero', np.full(len(codes), zero, kind))

    def _integers(self, name: str, values: list[int]) -> str:
        return self.constant(name, np.array(values, np.int64))

    def model(self) -> Any:
        model = super().model()
        model.opset_import.append(self.helper.make_opsetid(DOMAIN, 1))
        return model

    def _only_bias(self, node: Any) -> Any | None:
        """Return the node that adds the bias, if it is the product's only user."""
        add = self.only_user(node.output[0], 'Add')
        return None if add is None or self.graph.constant(add.input[1]) is None else add

    def _weight(self, node: Any, dequantize: Any) -> tuple[str, str]:
        """Return the codes and their zero points, one per output."""
        if node.name not in self.unsigned:
            return dequantize.input[0], dequantize.input[2]
        codes = self.graph.constant(dequantize.input[0])
        name = dequantize.input[0]
        moved = self.constant(f'{name}.unsigned', (codes.astype(np.int16) + 128).astype(np.uint8))
        size = len(self.graph.constant(dequantize.input[1]))
        return moved, self.constant(f'{name}.unsigned_zero', np.full(size, 128, np.uint8))
