"""What an engine needs changed in an exported graph: which is always the same function, in other operators."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..onnx.dependency import import_onnx
from .cpu import may_saturate


class Graph:
    """Lookups in an `onnx.ModelProto`: who makes a value, and what constants are."""

    def __init__(self, model: Any) -> None:
        self.onnx = import_onnx()
        self.model = model
        self.makers = {output: node for node in model.graph.node for output in node.output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def maker(self, value: str, kind: str) -> Any | None:
        """Return the node of a kind that makes a value, or None."""
        node = self.makers.get(value)
        return node if node is not None and node.op_type == kind else None

    def constant(self, value: str) -> NDArray | None:
        """Return a constant as an array, or None."""
        tensor = self._constants.get(value)
        return None if tensor is None else self.onnx.numpy_helper.to_array(tensor)

    def integer_products(self) -> list[tuple[Any, Any, Any]]:
        """Return (node, DequantizeLinear of its input, of its weight) of every integer layer."""
        found = []
        for node in self.model.graph.node:
            if node.op_type not in ('MatMul', 'Conv'):
                continue
            activation, weight = (self.maker(value, 'DequantizeLinear') for value in node.input[:2])
            if activation is not None and weight is not None and self.constant(weight.input[0]) is not None:
                found.append((node, activation, weight))
        return found

    def activation_bits(self, dequantize: Any) -> int:
        """Return the bits of the codes behind a DequantizeLinear: fewer than 8 where a Clip bounds them."""
        quantize = self.maker(dequantize.input[0], 'QuantizeLinear')
        clip = None if quantize is None else self.maker(quantize.input[0], 'Clip')
        if clip is None:
            return 8
        low, high, scale = (float(self.constant(v)) for v in (clip.input[1], clip.input[2], quantize.input[1]))
        return max(1, round(np.log2((high - low) / scale + 1)))


class Rewriter:
    """Puts other nodes into the place of nodes; the model that it is given stays as it is.

    Attributes:
        graph: lookups in the model.
        users: value -> the nodes that take it.
        replaced: name of a node -> the nodes in its place.
    """

    def __init__(self, model: Any) -> None:
        self.graph = Graph(model)
        self.helper, self.numpy = self.graph.onnx.helper, self.graph.onnx.numpy_helper
        self.replaced: dict[str, list[Any]] = {}
        self._constants: dict[str, Any] = {}
        self.users: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for value in node.input:
                self.users.setdefault(value, []).append(node)

    def constant(self, name: str, values: NDArray) -> str:
        """Add a constant, once, and return its name."""
        self._constants.setdefault(name, self.numpy.from_array(values, name))
        return name

    def only_user(self, value: str, kind: str) -> Any | None:
        """Return the node that takes a value, if it is the only one and of a kind."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 and users[0].op_type == kind else None

    def model(self) -> Any:
        """Return the rewritten model, without nodes and constants that nothing uses: engines would run them."""
        copy = self.graph.onnx.ModelProto()
        copy.CopyFrom(self.graph.model)
        nodes = [new for node in copy.graph.node for new in self.replaced.get(node.name, [node])]
        needed, kept = {value.name for value in copy.graph.output}, []
        for node in reversed(nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        constants = [tensor for tensor in (*copy.graph.initializer, *self._constants.values()) if tensor.name in needed]
        kept.reverse()
        for field, values in ((copy.graph.node, kept), (copy.graph.initializer, constants)):
            values = [type(value).FromString(value.SerializeToString()) for value in values]
            del field[:]
            field.extend(values)
        return copy


def saturating_layers(model: Any) -> list[str]:
    """Return the nodes whose products may exceed 16 bits (see `cpu`)."""
    graph = Graph(model)
    return [
        node.name
        for node, activation, weight in graph.integer_products()
        if may_saturate(
            int(np.abs(graph.constant(weight.input[0]).astype(np.int16)).max()), graph.activation_bits(activation)
        )
    ]


def keep_float(model: Any, names: list[str]) -> Any:
    """Return a copy whose named nodes multiply by float weights of the same values; inputs stay quantized."""
    writer = Rewriter(model)
    for node, _, weight in writer.graph.integer_products():
        if node.name in names:
            codes, scale = (writer.graph.constant(value) for value in weight.input[:2])
            shape = [1] * codes.ndim
            shape[weight.attribute[0].i] = -1
            writer.constant(weight.output[0], codes.astype(np.float32) * scale.reshape(shape))
            writer.replaced[weight.name] = []
    return writer.model()
