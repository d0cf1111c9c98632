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
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO

from ..calibration.progress import new_progress
from ..demo.run import evaluate
from ..engine.image_sets import leaf_datasets
from .analyses import ANALYSES
from .bootstrap import average_precision
from .cells import FORMAT, Cell
from .matches import match_detections, to_arrays
from .provenance import provenance
from .storage import write_arrays, write_json

TASKS = ('bbox', 'segm')


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
    """Evaluate through tools/test.py's own code, and keep per-image matches for the bootstrap."""
    detector, prefix = cell.detector, work_dir / 'detections'
    config = detector.load_config()
    evaluator, place = _coco_evaluator(config)
    work_dir.mkdir(parents=True, exist_ok=True)
    with new_progress(enabled=False) as progress, open(work_dir / 'mmengine.txt', 'w') as sink:
        with contextlib.redirect_stdout(sink):
            outcome = evaluate(
                detector.config,
                detector.checkpoint,
                cell.name,
                _quantization(cell, work_dir),
                work_dir,
                progress,
                [*detector.options, f'{place}.outfile_prefix={prefix}'],
            )
            ground_truth = COCO(evaluator['ann_file'])
    found = {}
    for task in TASKS:
        file = Path(f'{prefix}.{task}.json')
        if file.exists():
            category_ids = _category_ids(ground_truth, config)
            found[task] = match_detections(ground_truth, file, task, category_ids, ground_truth.getImgIds())
    everything = np.ones((1, len(ground_truth.getImgIds())), int)
    ap = {task: 100 * float(average_precision(matches, everything)[0]) for task, matches in found.items()}
    report = outcome.report.to_dict() if outcome.report else None
    rounded = {'bbox': outcome.box_ap, 'segm': outcome.mask_ap}  # mmdet's own figures have three digits
    checked = {task: None if math.isnan(rounded[task]) else rounded[task] for task in found}
    return {'ap': ap, 'mmdet_ap': checked, 'report': report}, to_arrays(found)


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


def _coco_evaluator(config: Config) -> tuple[dict[str, Any], str]:
    """Return the config's CocoMetric, and where it is in the config."""
    evaluators = config.test_evaluator
    listed = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for index, evaluator in enumerate(listed):
        if _name(evaluator.type) == 'CocoMetric' and evaluator.get('ann_file'):
            return evaluator, 'test_evaluator' if listed[0] is evaluators else f'test_evaluator.{index}'
    raise ValueError(
        'the benchmark needs a CocoMetric with an ann_file among the test evaluators, got '
        f'{[_name(evaluator.type) for evaluator in listed]}'
    )


def _name(kind: str | type) -> str:
    """Return a class's name without scope or module, however a config writes its type."""
    return getattr(kind, '__name__', kind).rpartition('.')[2]


def _category_ids(ground_truth: COCO, config: Config) -> list[int]:
    metainfo = leaf_datasets(config.test_dataloader.dataset)[0].get('metainfo') or {}
    return ground_truth.getCatIds(catNms=list(metainfo.get('classes') or []))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
