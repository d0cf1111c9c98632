"""Peak memory of an engine, in a process of its own.

    python -m erq_mm.benchmark.latency.memory MODEL.onnx ENGINE PRECISION HEIGHT WIDTH

prints the growth of the process's high-water mark, from before the graph is loaded to after two forwards, in bytes.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ...calibration.memory import process_peak_bytes
from ...export.backends import BACKENDS
from ...export.onnx.dependency import import_onnx


def peak_mb(model: Any, backend: str, precision: str, height: int, width: int) -> float:
    """Return the peak memory of two forwards of an `onnx.ModelProto`, MB above the interpreter and its imports."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        import_onnx().save(model, path)
        command = [sys.executable, '-m', __name__, str(path), backend, precision, str(height), str(width)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1]) / 1e6


def _measure(path: str, backend: str, precision: str, height: str, width: str) -> int:
    engine, image = BACKENDS[backend](), torch.zeros(1, 3, int(height), int(width))
    __import__(engine.name)
    before = process_peak_bytes()
    session = engine.load(import_onnx().load(path), 1, precision)
    for _ in range(2):
        session.run([image])
    return process_peak_bytes() - before


if __name__ == '__main__':
    torch.set_num_threads(1)
    print(_measure(*sys.argv[1:]))
