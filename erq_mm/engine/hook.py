"""`ERQHook`: quantize the model at the first batch of the first evaluation of a run."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmdet.engine.runner import TeacherStudentValLoop
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook, IterTimerHook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.progress import Progress
from torch import nn

from ..calibration.degenerate import clipping_watched, warn_of_clipping
from ..calibration.planning import Plan
from ..calibration.recipes import RecipeLike
from ..calibration.report import Report, check_writable
from ..export.container import check_suffix
from .checkpoints import check_float_checkpoint
from .console import size_lines, summary
from .distribution import on_rank_zero, quantize_on_all_ranks
from .installed import InstalledModel
from .quantization import ModelQuantization
from .saved_detectors import save_detector


@HOOKS.register_module()
class ERQHook(Hook):
    """Calibrate and quantize once, before the first batch of an evaluation; evaluation itself stays mmdet's.

    Life of a run: `after_load_checkpoint` checks that the float checkpoint fits. `before_test` finds what can be found
    early: settings, the report's path, the calibration images. `before_test_iter` quantizes the model in place at the
    first batch, when hooks that exchange weights (`EMAHook`) have put in what evaluation runs, and writes the report.
    `after_test_iter` checks at the first batch of every evaluation that nothing changed the model since, and warns if
    the quantizers clip much of the first batch of all.

    Args:
        recipe: a name, `dict(type=name, option=value)`, or a list of steps.
        w_bits, a_bits: 2 to 8.
        scope: `linears` or `all`.
        calibration: fields of `CalibrationConfig`: num_images, split, seed, image_ids.
        overrides: layer pattern -> `dict(w_bits=8)` or `'float'`, in order.
        report: path; default `quantization.json` beside mmengine's log.
        work_dir: where reconstructions keep finished units, to go on from there after a kill; None keeps nothing.
        save: file for the quantized detector (`.safetensors`, or `.pth`), as of tools/quantize.py; None saves nothing.
        same_function, full_account: the two checks of `quantize_` on the first calibration image.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        recipe: RecipeLike = 'erq',
        w_bits: int = 4,
        a_bits: int = 4,
        scope: str = 'linears',
        calibration: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        report: str | None = None,
        work_dir: str | None = None,
        same_function: bool = True,
        full_account: bool = True,
        save: str | None = None,
    ) -> None:
        self.quantization = ModelQuantization(
            recipe, w_bits, a_bits, scope, calibration, overrides, work_dir, same_function, full_account
        )
        self.report_path, self.save_path = report, None if save is None else check_suffix(save)
        self.report: Report | None = None
        self.shared_progress: Progress | None = None  # a display that is already running, else the hook starts one
        self._installed: InstalledModel | None = None
        self._is_checked = False
        self._watching, self._clipped_shares = ExitStack(), None  # while the first batch of all is evaluated

    def before_train(self, runner: Runner) -> None:
        raise RuntimeError(
            'ERQHook is for evaluation: validation inside a training run would quantize the model being trained. '
            'Remove default_hooks.quantization from the training config'
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self.report is None:
            check_float_checkpoint(unwrap(runner.model), checkpoint, self.quantization.scope)

    def before_test(self, runner: Runner) -> None:
        self._prepare(runner, 'test')

    def before_val(self, runner: Runner) -> None:
        if isinstance(runner.val_loop, TeacherStudentValLoop):
            raise ValueError(
                'TeacherStudentValLoop evaluates two models in a run, teacher and student, and ERQHook quantizes one: '
                "set val_cfg=dict(type='ValLoop', _delete_=True), and semi_test_cfg.predict_on to the one you want"
            )
        self._prepare(runner, 'val')

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._is_checked = False
        if len(_loader(runner, mode)) == 0:
            # a rank without a batch must still take part; hooks after this one find its model as it was
            self._quantize_once(runner, copy.deepcopy(unwrap(runner.model)))

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        self._quantize_once(runner, unwrap(runner.model))

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = 'train'
    ) -> None:
        if self._clipped_shares is not None:
            self._end_watch(runner, self._clipped_shares)
        if batch_idx == 0 or not self._is_checked:
            self._installed.check(unwrap(runner.model))
            self._is_checked = True

    @contextmanager
    def deliberate_change(self, model: nn.Module) -> Iterator[None]:
        """Let the block change the quantized model, which must still be as installed; it is remembered anew after."""
        self._installed.check(model)
        yield
        self._installed = InstalledModel(model)

    def _end_watch(self, runner: Runner, clipped_shares: Callable[[], dict[str, float]]) -> None:
        """Add to the report, on its disk as well, what the quantizers did to the first batch."""
        notes = warn_of_clipping(clipped_shares(), self.report.calibration['image_ids'])
        self._watching.close()
        self._clipped_shares = None
        for note in notes:
            MMLogger.get_current_instance().warning(note)
        self.add_notes(runner, notes)

    def add_notes(self, runner: Runner, notes: list[str]) -> None:
        """Add lines to the report, on the disk as well."""
        self.report.notes += notes
        if notes and is_main_process():
            self.report.write(self._path(runner))

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self._check_was_quantized()

    def after_run(self, runner: Runner) -> None:
        self._check_was_quantized()

    def _check_was_quantized(self) -> None:
        if self.report is None:
            raise RuntimeError(
                'the evaluation is over and no hook was called before a batch, so the metrics are those of the float '
                'model: the loop must call before_test_iter or before_val_iter, as those of mmengine do'
            )

    def _prepare(self, runner: Runner, evaluated: str) -> None:
        if self.report is not None:
            return
        path, model = self._path(runner), unwrap(runner.model)

        def find_faults() -> None:
            check_writable(path)
            if self.save_path is not None:
                check_writable(self.save_path, 'quantized model', 'save=')
                _check_has_own_pipeline(runner)
            self.quantization.prepare(model, runner.cfg, evaluated, self.shared_progress)

        on_rank_zero(find_faults)

    def _quantize_once(self, runner: Runner, model: nn.Module) -> None:
        if self.report is not None:
            return
        started, path = time.time(), self._path(runner)

        def calibrate() -> tuple[Report, Plan]:
            report, plan = self.quantization.run(model, self.shared_progress)
            report.write(path)
            self._save(runner, model, report)
            return report, plan

        logger = MMLogger.get_current_instance()
        try:
            self.report = quantize_on_all_ranks(model, calibrate)
        except TypeError:
            logger.exception('calibration failed')  # mmengine drops the traceback of a TypeError in a hook
            raise
        self._installed = InstalledModel(model)
        self._clipped_shares = self._watching.enter_context(clipping_watched(model))
        _retire_averaging(runner, logger)
        logger.info(f'\n{summary(self.report)}\nreport: {path}')
        _leave_out_of_iteration_times(runner, time.time() - started)

    def _save(self, runner: Runner, model: nn.Module, report: Report) -> None:
        if self.save_path is not None:
            loop = runner.test_loop if runner.test_loop is not None else runner.val_loop
            sizes = save_detector(model, self.save_path, report, runner.cfg, loop.dataloader.dataset.metainfo)
            MMLogger.get_current_instance().info(f'\n{size_lines(sizes, self.save_path)}')

    def _path(self, runner: Runner) -> Path:
        return Path(self.report_path or Path(runner.log_dir) / 'quantization.json')


def unwrap(model: nn.Module) -> nn.Module:
    """Return the detector inside DDP and test-time-augmentation wrappers."""
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    return model


def _loader(runner: Runner, mode: str) -> Any:
    return runner.val_dataloader if mode == 'val' else runner.test_dataloader


def _retire_averaging(runner: Runner, logger: MMLogger) -> None:
    """Take mmengine's `EMAHook` out of the run: exchanging back would put float weights into quantized layers."""
    retired = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    if retired:
        # a new list, as the caller iterates over the old one
        runner._hooks = [hook for hook in runner.hooks if hook not in retired]
        names = ', '.join(type(hook).__name__ for hook in retired)
        logger.info(f'{names} put in the averaged weights, which are quantized now, and is retired: they stay')


def _check_has_own_pipeline(runner: Runner) -> None:
    if any(isinstance(module, BaseTTAModel) for module in runner.model.modules()):
        raise ValueError(
            'save= under test-time augmentation would save its pipeline as that of the detector: save without --tta '
            '(or with tools/quantize.py), then evaluate the saved file with --tta'
        )


def _leave_out_of_iteration_times(runner: Runner, seconds: float) -> None:
    """Move the start of the current iteration, from which mmengine's timer estimates the time left."""
    for hook in runner.hooks:
        if isinstance(hook, IterTimerHook):
            hook.t += seconds
