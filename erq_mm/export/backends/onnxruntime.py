"""ONNX Runtime: runs everywhere; its integer kernels are asked for by name, as its own fusion misses them."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..onnx.dependency import import_onnx
from .base import Backend, Session, check_precision
from .cpu import WAY_OUT, saturates
from .fusion import fuse_integer_layers
from .rewriting import saturating_layers

INTEGER_KERNELS = ('MatMulIntegerToFloat', 'QGemm', 'QLinearConv', 'ConvInteger', 'MatMulInteger', 'QLinearMatMul')

WHY_UNSIGNED = f'this CPU has no VNNI and would saturate; {WAY_OUT}'

TOKEN = re.compile(r'_token_\d+$')  # what its optimizer adds to names


class OnnxRuntime(Backend):
    """The portable engine."""

    name, extra = 'onnxruntime', 'onnxruntime'

    def load(
        self, model: Any, threads: int | None = None, precision: str = 'f32', sizes: dict[str, int] | None = None
    ) -> Session:
        check_precision(precision, ('f32',), self.name)
        unsigned = saturating_layers(model) if saturates() else []
        notes = [f'{len(unsigned)} layers with unsigned weights, which is slower: {WHY_UNSIGNED}'] if unsigned else []
        return OnnxRuntimeSession(fuse_integer_layers(model, unsigned), threads, sizes or {}, notes)


class OnnxRuntimeSession(Session):
    """An inference session."""

    precision = 'f32'

    def __init__(self, model: Any, threads: int | None, sizes: dict[str, int], notes: list[str]) -> None:
        self._model, self._threads, self._sizes, self.notes = model, threads, sizes, notes
        self._session = self._start()
        self._inputs = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: x.contiguous().numpy() for name, x in zip(self._inputs, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(y)) for y in self._session.run(None, feed)]

    def kernels(self) -> dict[str, str]:
        onnx = import_onnx()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'optimized.onnx'
            self._start(optimized_model_filepath=str(path))
            nodes = onnx.load(path).graph.node
        return {TOKEN.sub('', node.name): node.op_type for node in nodes}

    def profile(self, inputs: Sequence[Tensor], runs: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            session = self._start(enable_profiling=True, profile_file_prefix=f'{folder}/profile')
            feed = {name: x.contiguous().numpy() for name, x in zip(self._inputs, inputs, strict=True)}
            for _ in range(runs + 1):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        kernels = [e for e in events if e.get('cat') == 'Node' and e['name'].endswith('_kernel_time')]
        spent: dict[str, float] = {}
        for event in kernels[len(kernels) // (runs + 1) :]:  # the first run is the warm-up
            kind = event['args']['op_name']
            spent[kind] = spent.get(kind, 0.0) + event['dur'] / 1000 / runs
        return spent

    @staticmethod
    def is_integer(kernel: str) -> bool:
        return kernel in INTEGER_KERNELS

    def _start(self, **settings: Any) -> Any:
        runtime = _import()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        for name, size in self._sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        for name, value in settings.items():
            setattr(options, name, value)
        return runtime.InferenceSession(self._model.SerializeToString(), options, providers=['CPUExecutionProvider'])


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "back end 'onnxruntime' needs the package onnxruntime: "
            "pip install 'erq_mm[onnxruntime]' (or: pip install onnxruntime onnx)"
        ) from error
    return onnxruntime
