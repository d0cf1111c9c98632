"""Evaluate a model float and with several recipes, in one process."""

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from rich.progress import Progress

from ..calibration.report import Report
from ..engine.evaluation import add_recipe, build_parser, load_config, prepare_config

BOX, MASK = 'coco/bbox_mAP', 'coco/segm_mAP'


@dataclass
class Outcome:
    """The outcome of one test run: its metrics, the quantization's report (None for float), and kept predictions."""

    metrics: dict[str, float]
    report: Report | None
    samples: list[BaseDataElement] = field(default_factory=list)


@dataclass
class Evaluation:
    """The outcome of one run: AP in percent, the quantization's report (None for float), and kept predictions.

    An AP is NaN where the config does not evaluate it, or where not a single object was detected.
    """

    name: str
    box_ap: float
    mask_ap: float
    report: Report | None
    samples: list[DetDataSample] = field(default_factory=list)


class ShowProgress(Hook):
    """Advance a display per image and keep the first predictions for pictures."""

    def __init__(self, progress: Progress, name: str, keep: int) -> None:
        self.progress, self.name, self.keep = progress, name, keep
        self.samples: list[BaseDataElement] = []

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == 0:  # after ERQHook has calibrated: the time shown is that of the evaluation
            self.task = self.progress.add_task(f'{self.name}: evaluating', total=len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.progress.advance(self.task)
        self.samples += [sample.cpu() for sample in outputs[: max(0, self.keep - len(self.samples))]]


def run_test(
    config: str,
    checkpoint: str,
    name: str,
    quantization: dict[str, Any] | None,
    work_dir: Path,
    progress: Progress,
    options: Sequence[str] = (),
    keep: int = 0,
    hooks: Sequence[Hook] = (),
) -> Outcome:
    """Run `tools/test.py`'s own code on a config; mmengine's log goes to `work_dir`.

    Args:
        name: of what the progress shows.
        quantization: keys of `ERQHook`, or None for the float model.
        options: `key=value` as for --cfg-options.
        keep: number of predictions to keep.
        hooks: further ones of the runner.
    """
    arguments = [config, checkpoint, '--work-dir', str(work_dir)]
    args = build_parser().parse_args(arguments + (['--cfg-options', *options] if options else []))
    prepared = prepare_config(args, load_config(args.config))
    prepared.log_level = 'WARNING'
    if quantization is not None:
        add_recipe(prepared, quantization)
    work_dir.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings('ignore', message='.*has been created, the method `get_instance` should not')
    with open(work_dir / 'console.txt', 'w') as console, contextlib.redirect_stdout(console):
        runner = Runner.from_cfg(prepared)
        shown = ShowProgress(progress, name, keep)
        for hook in (shown, *hooks):
            runner.register_hook(hook)
        for hook in runner.hooks:
            if hasattr(hook, 'shared_progress'):
                hook.shared_progress = progress
        metrics = runner.test()
    report = next((hook.report for hook in runner.hooks if hasattr(hook, 'shared_progress')), None)
    return Outcome(metrics, report, shown.samples)


def evaluate(
    config: str,
    checkpoint: str,
    name: str,
    quantization: dict[str, Any] | None,
    work_dir: Path,
    progress: Progress,
    options: Sequence[str] = (),
    keep: int = 0,
) -> Evaluation:
    """Return the AP of a detector; the arguments are those of `run_test`."""
    run = run_test(config, checkpoint, name, quantization, work_dir, progress, options, keep)
    box, mask = (100 * run.metrics.get(key, math.nan) for key in (BOX, MASK))
    return Evaluation(name, box, mask, run.report, run.samples)
