"""Integer kernels of ONNX Runtime, asked for by name.

Left alone, ONNX Runtime first fuses MatMul and the bias into a float Gemm and then unpacks the int8 weights in every
run: slower than float. So linear layers become `MatMulIntegerToFloat`, which adds the bias itself; convolutions whose
output no quantizer takes become `ConvInteger`; of the others it makes `QLinearConv` itself.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from .rewriting import Graph

DOMAIN = 'com.microsoft'


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


class _Writer:
    def __init__(self, model: Any, unsigned: Collection[str]) -> None:
        self.graph, self.unsigned = Graph(model), set(unsigned)
        self.helper, self.numpy = self.graph.onnx.helper, self.graph.onnx.numpy_helper
        self.replaced: dict[str, list[Any]] = {}  # node name -> nodes in its place
        self.constants: dict[str, Any] = {}
        self.users: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for value in node.input:
                self.users.setdefault(value, []).append(node)

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
        """QLinearConv where its output is quantized, else ConvInteger, then its steps; the bias is added behind it."""
        add = self._only_bias(node)
        way = None if add is None else self._way_to_codes(add.output[0])
        if way is None:
            self._write_integer(node, activation, weight)
        else:
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
        bias = self._constant(f'{name}.bias_codes', steps.astype(np.int32))
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
            bounds = [self._constant(f'{name}.code{value}', np.array(value, np.uint8)) for value in (low, high)]
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

    def _write_integer(self, node: Any, activation: Any, weight: Any) -> None:
        codes, _ = self._weight(node, weight)
        is_unsigned = node.name in self.unsigned
        zero = self._constant(f'{node.name}.zero', np.array(128, np.uint8) if is_unsigned else np.array(0, np.int8))
        steps = self.graph.constant(weight.input[1]) * self.graph.constant(activation.input[1])
        scales = self._constant(f'{node.name}.step', steps[:, None, None].astype(np.float32))
        name, make = node.name, self.helper.make_node
        integer = make('ConvInteger', [activation.input[0], codes, activation.input[2], zero], [f'{name}/i'], name=name)
        integer.attribute.extend(node.attribute)
        self.replaced[name] = [
            integer,
            make('Cast', [f'{name}/i'], [f'{name}/f'], name=f'{name}/cast', to=1),
            make('Mul', [f'{name}/f', scales], [node.output[0]], name=f'{name}/mul'),
        ]

    def model(self) -> Any:
        """Return the rewritten model, without nodes and constants that nothing uses: the engine would run them."""
        copy = self.graph.onnx.ModelProto()
        copy.CopyFrom(self.graph.model)
        nodes = [new for node in copy.graph.node for new in self.replaced.get(node.name, [node])]
        needed, kept = {value.name for value in copy.graph.output}, []
        for node in reversed(nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        constants = [tensor for tensor in (*copy.graph.initializer, *self.constants.values()) if tensor.name in needed]
        kept.reverse()
        for field, values in ((copy.graph.node, kept), (copy.graph.initializer, constants)):
            values = [type(value).FromString(value.SerializeToString()) for value in values]
            del field[:]
            field.extend(values)
        copy.opset_import.append(self.helper.make_opsetid(DOMAIN, 1))
        return copy

    def _only_bias(self, node: Any) -> Any | None:
        """Return the node that adds the bias, if it is the product's only user."""
        users = self.users.get(node.output[0], [])
        is_bias = len(users) == 1 and users[0].op_type == 'Add' and self.graph.constant(users[0].input[1]) is not None
        return users[0] if is_bias else None

    def _weight(self, node: Any, dequantize: Any) -> tuple[str, str]:
        """Return the codes and their zero points, one per output."""
        if node.name not in self.unsigned:
            return dequantize.input[0], dequantize.input[2]
        codes = self.graph.constant(dequantize.input[0])
        name = dequantize.input[0]
        moved = self._constant(f'{name}.unsigned', (codes.astype(np.int16) + 128).astype(np.uint8))
        size = len(self.graph.constant(dequantize.input[1]))
        return moved, self._constant(f'{name}.unsigned_zero', np.full(size, 128, np.uint8))

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.constants.setdefault(name, self.numpy.from_array(values, name))
        return name
