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
        elif writer.is_requantized(node.output[0]):
            writer.keep_conv(node, weight)
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

    def keep_conv(self, node: Any, weight: Any) -> None:
        """Leave the pattern of a QLinearConv as it is, apart from the sign of its codes."""
        if node.name in self.unsigned:
            moved = self.helper.make_node(
                'DequantizeLinear', [self._weight(node, weight)[0], weight.input[1], self._weight(node, weight)[1]],
                list(weight.output), name=weight.name, axis=0,
            )  # fmt: skip
            self.replaced[weight.name] = [moved]

    def fuse_conv(self, node: Any, activation: Any, weight: Any) -> None:
        """ConvInteger, then its steps and the bias."""
        codes, _ = self._weight(node, weight)
        zero = self._constant(f'{node.name}.zero', np.array(128, np.uint8) if node.name in self.unsigned else np.array(0, np.int8))
        scale, step = self.graph.constant(weight.input[1]), self.graph.constant(activation.input[1])
        bias_node = self.graph.maker(node.input[2], 'DequantizeLinear')
        bias = self.graph.constant(bias_node.input[0]) * self.graph.constant(bias_node.input[1])
        scales = self._constant(f'{node.name}.step', (scale * step)[:, None, None].astype(np.float32))
        biases = self._constant(f'{node.name}.bias_value', bias[:, None, None].astype(np.float32))
        name, make = node.name, self.helper.make_node
        integer = make('ConvInteger', [activation.input[0], codes, activation.input[2], zero], [f'{name}/i'], name=name)
        integer.attribute.extend(node.attribute)
        self.replaced[name] = [
            integer,
            make('Cast', [f'{name}/i'], [f'{name}/f'], name=f'{name}/cast', to=1),
            make('Mul', [f'{name}/f', scales], [f'{name}/m'], name=f'{name}/mul'),
            make('Add', [f'{name}/m', biases], [node.output[0]], name=f'{name}/add'),
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
