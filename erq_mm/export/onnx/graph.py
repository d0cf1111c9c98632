"""An ONNX graph under construction: values are names, every operator is one call."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dependency import import_onnx

OPSET = 21  # the first with Gelu (20) and per-axis DequantizeLinear of every integer type
IR_VERSION = 10


class GraphBuilder:
    """Collects nodes, constants, inputs and outputs; `model` is the finished graph.

    A graph written operator by operator, instead of one traced from modules, has dynamic sizes by construction, the
    layers' own names on its nodes, and the operators that engines recognise; it is there in a second, where tracing
    Swin with symbolic sizes takes minutes.

    Args:
        name: of the graph.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._onnx = import_onnx()
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._taken: Counter[str] = Counter()
        self._remembered: dict[Any, str] = {}

    def input(self, name: str, shape: tuple[int | str, ...]) -> str:
        """Add a float input; a text in `shape` is the name of a dynamic size."""
        helper = self._onnx.helper
        self._inputs.append(helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape))
        return self._unique(name)

    def output(self, value: str, name: str, shape: tuple[int | str | None, ...]) -> None:
        """Give a value out under a name; None in `shape` is an unknown size."""
        self._nodes.append(self._onnx.helper.make_node('Identity', [value], [self._unique(name)], name=f'{name}/out'))
        helper = self._onnx.helper
        self._outputs.append(helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, shape))

    def constant(self, values: NDArray | int | float | list[int], name: str = 'constant') -> str:
        """Return a constant; small ones that are equal are one. Python integers become int64, floats float32."""
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes scalars vectors
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._remembered:
            return self._remembered[key]
        unique = self._unique(name)
        self._constants[unique] = array
        if key is not None:
            self._remembered[key] = unique
        return unique

    def add(self, kind: str, *inputs: str, name: str | None = None, domain: str = '', **attributes: Any) -> str:
        """Add a node with one output, and return that.

        Args:
            kind: the operator, such as `MatMul`.
            inputs: values; an empty text leaves an optional one out.
            name: of the node; its output is named after it.
        """
        name = self._unique(name or kind.lower())
        node = self._onnx.helper.make_node(kind, list(inputs), [f'{name}/y'], name=name, domain=domain, **attributes)
        self._nodes.append(node)
        return f'{name}/y'

    def once(self, key: Any, write: Callable[[], str]) -> str:
        """Return the value that `write` makes, made at the first call with this key."""
        if key not in self._remembered:
            self._remembered[key] = write()
        return self._remembered[key]

    def model(self) -> Any:
        """Return the finished `onnx.ModelProto`, checked."""
        onnx = self._onnx
        initializers = [onnx.numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = onnx.helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, initializers)
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid('', OPSET)], ir_version=IR_VERSION, producer_name='erq_mm'
        )
        onnx.checker.check_model(model)
        return model

    def _unique(self, name: str) -> str:
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f'{name}#{self._taken[name]}'
