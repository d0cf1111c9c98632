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

    def is_requantized(self, value: str) -> bool:
        """Whether every use of a value is a QuantizeLinear, maybe behind ReLU or Clip."""
        users = self.users.get(value, [])
        return bool(users) and all(
            user.op_type == 'QuantizeLinear'
            or (user.op_type in ('Relu', 'Clip') and self.is_requantized(user.output[0]))
            for user in users
        )

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
        if add is not None and self.is_requantized(add.output[0]):
            self._prepare_qlinear(node, activation, weight, add)
        else:
            self._write_integer(node, activation, weight)

    def _prepare_qlinear(self, node: Any, activation: Any, weight: Any, add: Any) -> None:
        """Move the bias into the convolution, in int32 as QLinearConv has it: up to half a step of its sums away."""
        codes, zeros = self._weight(node, weight)
        step = self.graph.constant(weight.input[1]).astype(np.float64) * self.graph.constant(activation.input[1])
        steps = np.clip(np.round(self.graph.constant(add.input[1]).reshape(-1) / step), -(2**31), 2**31 - 1)
        name, make = node.name, self.helper.make_node
        bias = self._constant(f'{name}.bias_codes', steps.astype(np.int32))
        scale = self._constant(f'{name}.bias_scale', step.astype(np.float32))
        zero = self._constant(f'{name}.bias_zero', np.zeros(len(step), np.int32))
        conv = make('Conv', [node.input[0], f'{name}/w', f'{name}/b'], [add.output[0]], name=name)
        conv.attribute.extend(node.attribute)
        self.replaced[name] = [
            make('DequantizeLinear', [codes, weight.input[1], zeros], [f'{name}/w'], name=f'{name}/dw', axis=0),
            make('DequantizeLinear', [bias, scale, zero], [f'{name}/b'], name=f'{name}/db', axis=0),
            conv,
        ]
        self.replaced[add.name] = []

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
        """Return the rewritten model; constants and nodes that nothing uses are left to the engine to remove."""
        copy = self.graph.onnx.ModelProto()
        copy.CopyFrom(self.graph.model)
        del copy.graph.node[:]
        for node in self.graph.model.graph.node:
            copy.graph.node.extend(self.replaced.get(node.name, [node]))
        copy.graph.initializer.extend(self.constants.values())
        copy.opset_import.append(self.helper.make_opsetid(DOMAIN, 1))
        return copy

    def _only_bias(self, node: Any) -> Any | None:
        """Return the node that adds the bias, if it is the product's only user."""
        users = self.users.get(node.output[0], [])
        if len(users) == 1 and users[0].op_type == 'Add' and users[0].name == f'{node.name}.add':
            return users[0]
        return None

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
