"""OpenVINO: one kernel per integer layer with bias, GELU and requantization inside, and one per attention."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import PRECISIONS, Backend, Session, check_precision
from .cpu import WAY_OUT, saturates
from .quantizers import write_out_quantizers
from .rewriting import keep_float, saturating_layers

PRODUCTS = ('FullyConnected', 'Convolution', 'MatMul')


class OpenVino(Backend):
    """The fast engine on x86 CPUs. Its own default precision is bf16 where the CPU has it: here it is always stated."""

    name, extra = 'openvino', 'openvino'

    def load(
        self, model: Any, threads: int | None = None, precision: str = 'f32', sizes: dict[str, int] | None = None
    ) -> Session:
        core, graph, options, notes = _prepare(self.name, model, threads, precision, sizes)
        return OpenVinoSession(core.compile_model(graph, 'CPU', options), notes)

    def profile(
        self, model: Any, inputs: Sequence[Tensor], runs: int, threads: int | None = None, precision: str = 'f32'
    ) -> dict[str, float]:
        core, graph, options, _ = _prepare(self.name, model, threads, precision, _sizes_of(model, inputs))
        request = core.compile_model(graph, 'CPU', options | {'PERF_COUNT': True}).create_infer_request()
        arrays = [x.contiguous().numpy() for x in inputs]
        request.infer(arrays)
        spent: dict[str, float] = {}
        for _ in range(runs):
            request.infer(arrays)
            for entry in request.profiling_info:
                milliseconds, name = (
                    entry.real_time.total_seconds() * 1000 / runs,
                    f'{entry.node_type} {entry.exec_type}',
                )
                if milliseconds:
                    spent[name] = spent.get(name, 0.0) + milliseconds
        return spent


class OpenVinoSession(Session):
    """A compiled model."""

    def __init__(self, compiled: Any, notes: list[str]) -> None:
        self._compiled, self._request, self.notes = compiled, compiled.create_infer_request(), notes
        self.precision = compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        results = self._request.infer([x.contiguous().numpy() for x in inputs], share_inputs=True)
        return [torch.from_numpy(np.asarray(results[i])) for i in range(len(self._compiled.outputs))]

    def kernels(self) -> dict[str, str]:
        found = {}
        for operator in self._compiled.get_runtime_model().get_ops():
            info = operator.get_rt_info()
            kind, kernel = (info[key].value if key in info else '' for key in ('layerType', 'primitiveType'))
            for name in (operator.friendly_name, *info['originalLayersNames'].value.split(',')):
                name = name.split('/Dequantization')[0].removesuffix('/WithoutBiases')
                if kind in PRODUCTS or name not in found:  # a bias that was not fused has its layer's name, too
                    found[name] = f'{kind} {kernel}'
            if kind in PRODUCTS:  # a product that ends the graph goes by the output's name: its weight has the layer's
                found[_layer_of_weight(operator)] = f'{kind} {kernel}'
        return found

    @staticmethod
    def is_integer(kernel: str) -> bool:
        return kernel.lower().endswith('_i8')


def _prepare(
    name: str, model: Any, threads: int | None, precision: str, sizes: dict[str, int] | None
) -> tuple[Any, Any, dict[str, Any], list[str]]:
    """Return core, graph, options and notes of a model that is about to be compiled."""
    check_precision(precision, PRECISIONS, name)
    core, notes = _import().Core(), []
    if saturates() and (layers := saturating_layers(model)):
        model = keep_float(model, layers)
        notes = [f'{len(layers)} layers in float: this CPU has no VNNI and would saturate; {WAY_OUT}']
    if sizes:
        model = write_out_quantizers(model)  # their arithmetic is fused only where sizes are known
    graph = core.read_model(model.SerializeToString())
    if sizes:
        graph.reshape({value.any_name: _fixed(model, value.any_name, sizes) for value in graph.inputs})
    options = {'INFERENCE_PRECISION_HINT': precision, 'ENABLE_CPU_PINNING': False, 'NUM_STREAMS': 1}
    return core, graph, options | ({} if threads is None else {'INFERENCE_NUM_THREADS': threads}), notes


def _layer_of_weight(operator: Any) -> str:
    """Return the layer in the name of the constant that a product's second operand is made of."""
    node = operator.input_value(1).get_node()
    while node.get_input_size():
        node = node.input_value(0).get_node()
    return node.friendly_name.removesuffix('/y').removesuffix('.codes').removesuffix('.weight')


def _import() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "back end 'openvino' needs the package openvino: "
            "pip install 'erq_mm[openvino]' (or: pip install openvino onnx)"
        ) from error
    return openvino


def _sizes_of(model: Any, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Return the sizes that inputs give to the named dimensions of a graph."""
    shapes = (value.type.tensor_type.shape.dim for value in model.graph.input)
    pairs = (pair for dims, x in zip(shapes, inputs, strict=True) for pair in zip(dims, x.shape, strict=True))
    return {dim.dim_param: size for dim, size in pairs if dim.dim_param}


def _fixed(model: Any, name: str, sizes: dict[str, int]) -> list[int]:
    """Return the shape of an input with the named sizes put in; -1 stays dynamic."""
    declared = next(value for value in model.graph.input if value.name == name).type.tensor_type.shape.dim
    return [dim.dim_value or sizes.get(dim.dim_param, -1) for dim in declared]
