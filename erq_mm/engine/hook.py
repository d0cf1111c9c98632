"""`ERQHook`: quantize the model before the first evaluation of a run."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.progress import Progress
from torch import nn

from ..calibration.checks import check_steps
from ..calibration.pipeline import plan_quantization, quantize_
from ..calibration.progress import new_progress
from ..calibration.recipes import RecipeLike, resolve_recipe
from ..calibration.report import Report, check_writable
from ..calibration.steps import needs
from ..core.spec import check_bits
from ..nn.structure import SCOPES
from .calibration_data import CalibrationConfig, build_calibration_images
from .checkpoints import check_float_checkpoint
from .console import summary
from .detector import DetectorTask
from .distribution import quantize_on_all_ranks
from .versions import stack_versions


@HOOKS.register_module()
class ERQHook(Hook):
    """Calibrate and quantize in `before_test` or `before_val`, once; evaluation itself stays mmdet's.

    Life of a run: `after_load_checkpoint` checks that the float checkpoint fits, `before_test` puts the model in eval
    mode, quantizes it in place and writes the report.

    Args:
        recipe: a name, `dict(type=name, option=value)`, or a list of steps.
        w_bits, a_bits: 2 to 8.
        scope: `linears` or `all`.
        calibration: fields of `CalibrationConfig`: num_images, split, seed, image_ids.
        overrides: layer pattern -> `dict(w_bits=8)` or `'float'`, in order.
        report: path; default `quantization.json` beside mmengine's log.
        work_dir: where reconstructions keep finished units, to go on from there after a kill; None keeps nothing.
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
    ) -> None:
        self.work_dir = work_dir
        self.recipe = resolve_recipe(recipe)
        check_steps(self.recipe)
        check_bits('w_bits', w_bits)
        check_bits('a_bits', a_bits)
        if scope not in SCOPES:
            raise ValueError(f'scope must be one of {SCOPES}, got {scope!r}')
        self.w_bits, self.a_bits, self.scope = w_bits, a_bits, scope
        self.overrides = dict(overrides or {})
        try:
            self.calibration = CalibrationConfig(**{'num_images': self.recipe.images} | dict(calibration or {}))
        except TypeError as error:
            raise ValueError(f'default_hooks.quantization.calibration={calibration}: {error}') from None
        self.calibration.check_enough(self.recipe)
        self.report_path = report
        self.report: Report | None = None
        self.shared_progress: Progress | None = None  # a display that is already running, else the hook starts one

    def before_train(self, runner: Runner) -> None:
        raise RuntimeError(
            'ERQHook is for evaluation: validation inside a training run would quantize the model being trained. '
            'Remove default_hooks.quantization from the training config'
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self.report is None:
            check_float_checkpoint(unwrap(runner.model), checkpoint, self.scope)

    def before_test(self, runner: Runner) -> None:
        self._quantize_once(runner, 'test')

    def before_val(self, runner: Runner) -> None:
        self._quantize_once(runner, 'val')

    def _quantize_once(self, runner: Runner, evaluated: str) -> None:
        if self.report is not None:
            return
        path = Path(self.report_path or Path(runner.log_dir) / 'quantization.json')
        model = unwrap(runner.model)
        model.eval()

        def calibrate() -> Report:
            check_writable(path)
            plan_quantization(model, self.recipe, self.w_bits, self.a_bits, self.scope, self.overrides)
            report = self._calibrate(model, runner, evaluated)
            report.write(path)
            return report

        logger = MMLogger.get_current_instance()
        try:
            self.report = quantize_on_all_ranks(
                model, calibrate, self.recipe, self.w_bits, self.a_bits, self.scope, self.overrides
            )
        except TypeError:
            logger.exception('calibration failed')  # mmengine drops the traceback of a TypeError in a hook
            raise
        logger.info(f'\n{summary(self.report)}\nreport: {path}')

    def _calibrate(self, model: nn.Module, runner: Runner, evaluated: str) -> Report:
        with nullcontext(self.shared_progress) if self.shared_progress else new_progress() as progress:
            images = build_calibration_images(runner.cfg, self.calibration, evaluated, progress)
            report = quantize_(
                model,
                DetectorTask(images.samples, self.scope == 'all', progress, with_labels='loss' in needs(self.recipe)),
                recipe=self.recipe,
                w_bits=self.w_bits,
                a_bits=self.a_bits,
                scope=self.scope,
                overrides=self.overrides,
                seed=self.calibration.seed,
                progress=progress,
                work_dir=self.work_dir,
            )
        report.calibration = {'image_ids': images.ids, 'split': self.calibration.split}
        report.notes += images.notes
        report.versions = stack_versions()
        return report


def unwrap(model: nn.Module) -> nn.Module:
    """Return the detector inside DDP and test-time-augmentation wrappers."""
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    return model
