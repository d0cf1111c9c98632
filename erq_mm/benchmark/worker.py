"""Run one cell in a process of its own: `python -m erq_mm.benchmark.worker REQUEST.json`."""

import contextlib
import json
import math
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.utils import register_all_modules
from mmengine.registry import init_default_scope

from ..calibration.progress import new_progress
from ..demo.run import run_test
from .analyses import ANALYSES
from .cells import FORMAT, Cell
from .fidelity_hook import MeasureFidelity
from .provenance import provenance
from .storage import write_arrays, write_json


def main(request: Path) -> None:
    """Run the cell of a request file and write its result beside; the result's JSON is written last.

    Args:
        request: JSON with `cell`, `result` and `arrays` (paths), `work_dir` (scratch, deleted) and `jobs`.
    """
    asked = json.loads(Path(request).read_text())
    cell, work_dir = Cell.from_dict(asked['cell']), Path(asked['work_dir'])
    warnings.filterwarnings('ignore')
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    try:
        result, arrays = run_cell(cell, work_dir)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    write_arrays(Path(asked['arrays']), arrays)
    write_json(
        Path(asked['result']),
        {'format': FORMAT, 'cell': cell.to_dict(), **result, 'provenance': provenance(asked['jobs'])},
    )


def run_cell(cell: Cell, work_dir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the values and arrays of a cell; `work_dir` is scratch."""
    started = time.perf_counter()
    result, arrays = run_accuracy(cell, work_dir) if cell.kind == 'accuracy' else ANALYSES[cell.kind](cell)
    return result | {'wall_seconds': time.perf_counter() - started}, arrays


def run_accuracy(cell: Cell, work_dir: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Evaluate through tools/test.py's own code, and keep what happened per image for the bootstrap."""
    model, protocol = cell.detector, cell.detector.protocol
    work_dir.mkdir(parents=True, exist_ok=True)
    recorder = protocol.recorder(model.load_config(), work_dir)
    with new_progress(enabled=False) as progress, open(work_dir / 'mmengine.txt', 'w') as sink:
        with contextlib.redirect_stdout(sink):
            outcome = run_test(
                model.config,
                model.checkpoint,
                cell.name,
                _quantization(cell, work_dir),
                work_dir,
                progress,
                [*model.options, *recorder.options],
                hooks=[*recorder.hooks, MeasureFidelity(model)],
            )
            arrays = recorder.arrays()
    measured = protocol.measured(arrays)
    reported = {
        metric.stored: metric.scale * outcome.metrics.get(metric.reported, math.nan) for metric in protocol.metrics
    }
    checked = {stored: None if math.isnan(reported[stored]) else reported[stored] for stored in measured}
    report = outcome.report.to_dict() if outcome.report else None
    return {'measured': measured, 'reported': checked, 'report': report}, arrays


def _quantization(cell: Cell, work_dir: Path) -> dict[str, Any] | None:
    if cell.recipe is None:
        return None
    return {
        'recipe': cell.recipe,
        'w_bits': cell.w_bits,
        'a_bits': cell.a_bits,
        'scope': cell.scope,
        'calibration': {'num_images': cell.images, 'seed': cell.seed},
        'report': str(work_dir / 'quantization.json'),
    }


if __name__ == '__main__':
    main(Path(sys.argv[1]))
