"""ONNX Runtime: runs everywhere; its integer kernels are asked for by name, as its own fusion misses them."""

import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..onnx.dependency import import_onnx
from .base import Backend, Session, check_precision
from .cpu import WAY_OUT, saturates, subnormals_as_zero
from .fusion import fuse_integer_layers
from .heads import gather_heads
from .rewriting import saturating_layers

INTEGER_KERNELS = ('MatMulIntegerToFloat', 'QGemm', 'QLinearConv', 'ConvInteger', 'MatMulInteger', 'QLinearMatMul')

WHY_UNSIGNED = f'this CPU has no VNNI and would saturate; {WAY_OUT}'

TOKEN = re.compile(r'_token_\d+$')  # what its optimizer adds to names


class OnnxRuntime(Backend):
    """The portable engine.

    Args:
        as_it_comes: take graph and engine as they are, with subnormals: what to compare with.
    """

    name, extra = 'onnxruntime', 'onnxruntime'

    def __init__(self, as_it_comes: bool = False) -> None:
        self.as_it_comes = as_it_comes

    def load(
        self, model: Any, threads: int | None = None, precision: str = 'f32', sizes: dict[str, int] | None = None
    ) -> Session:
        check_precision(precision, ('f32',), self.name)
        if self.as_it_comes:
            return OnnxRuntimeSession(model, _options(threads, sizes), [], subnormals=True)
        unsigned = _unsigned(model)
        notes = [f'{len(unsigned)} layers with unsigned weights, which is slower: {WHY_UNSIGNED}'] if unsigned else []
        return OnnxRuntimeSession(_rewritten(model, unsigned), _options(threads, sizes), notes)

    def profile(
        self, model: Any, inputs: Sequence[Tensor], runs: int, threads: int | None = None, precision: str = 'f32'
    ) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            options = _options(threads, None)
            options.enable_profiling, options.profile_file_prefix = True, f'{folder}/profile'
            session = _start(_rewritten(model, _unsigned(model)), options)
            feed = _feed([value.name for value in session.get_inputs()], inputs)
            with subnormals_as_zero():
                for _ in range(runs + 1):
                    session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        kernels = [e for e in events if e.get('cat') == 'Node' and e['name'].endswith('_kernel_time')]
        spent: dict[str, float] = {}
        for event in kernels[len(kernels) // (runs + 1) :]:  # the first run is the warm-up
            kind = event['args']['op_name']
            spent[kind] = spent.get(kind, 0.0) + event['dur'] / 1000 / runs
        return spent


class OnnxRuntimeSession(Session):
    """An inference session; the model itself is not kept.

    Args:
        subnormals: compute with them, slowly, in the place of zeros.
    """

    precision = 'f32'

    def __init__(self, model: Any, options: Any, notes: list[str], subnormals: bool = False) -> None:
        self.notes, self._context = notes, nullcontext if subnormals else subnormals_as_zero
        if not subnormals:
            options.add_session_config_entry('session.set_denormal_as_zero', '1')  # for the threads of its own
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'optimized.onnx'
            options.optimized_model_filepath = str(path)
            self._session = _start(model, options)
            nodes = import_onnx().load(path).graph.node
            self._kernels = {TOKEN.sub('', node.name): node.op_type for node in nodes}
        self._inputs = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        with self._context():
            outputs = self._session.run(None, _feed(self._inputs, inputs))
        return [torch.from_numpy(np.asarray(y)) for y in outputs]

    def kernels(self) -> dict[str, str]:
        return self._kernels

    @staticmethod
    def is_integer(kernel: str) -> bool:
        return kernel in INTEGER_KERNELS


def _unsigned(model: Any) -> list[str]:
    """Return the layers whose weights have to be unsigned on this CPU."""
    return saturating_layers(model) if saturates() else []


def _rewritten(model: Any, unsigned: list[str]) -> Any:
    return gather_heads(fuse_integer_layers(model, unsigned))


def _options(threads: int | None, sizes: dict[str, int] | None) -> Any:
    options = _import().SessionOptions()
    options.log_severity_level = 3  # errors: it warns that the optimized model is of this machine
    if threads is not None:
        options.intra_op_num_threads = threads
    for name, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def _start(model: Any, options: Any) -> Any:
    with subnormals_as_zero():  # the first session of a process would leave its setting to this thread
        return _import().InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])


def _feed(names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    return {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "back end 'onnxruntime' needs the package onnxruntime: "
            "pip install 'erq_mm[onnxruntime]' (or: pip install onnxruntime onnx)"
        ) from error
    return onnxruntime
