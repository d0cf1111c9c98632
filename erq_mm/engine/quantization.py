"""What an `ERQHook` is told to do, done to the model of a config: in a Runner or without one."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from mmengine.config import Config
from rich.progress import Progress
from torch import nn

from ..calibration.checks import check_steps
from ..calibration.pipeline import quantize_
from ..calibration.planning import Plan, plan_quantization
from ..calibration.progress import new_progress
from ..calibration.recipes import RecipeLike, resolve_recipe
from ..calibration.report import Report
from ..calibration.steps import needs
from ..calibration.task import check_task
from ..core.spec import check_bits
from ..nn.structure import SCOPES
from .calibration_data import CalibrationConfig, CalibrationImages, build_calibration_images
from .model_kinds import ImageTask, kind_of
from .versions import stack_versions


class ModelQuantization:
    """A recipe with its bits, scope and calibration images, checked; `prepare`, then `run`.

    Args:
        recipe, w_bits, a_bits, scope, calibration, overrides, work_dir, same_function, full_account: as of `ERQHook`.

    Raises:
        ValueError: an unknown recipe, scope or field, or bits outside 2..8.
    """

    def __init__(
        self,
        recipe: RecipeLike,
        w_bits: int,
        a_bits: int,
        scope: str,
        calibration: Mapping[str, Any] | None,
        overrides: Mapping[str, Any] | None,
        work_dir: str | None,
        same_function: bool,
        full_account: bool,
    ) -> None:
        self.recipe = resolve_recipe(recipe)
        check_steps(self.recipe)
        check_bits('w_bits', w_bits)
        check_bits('a_bits', a_bits)
        if scope not in SCOPES:
            raise ValueError(f'scope must be one of {SCOPES}, got {scope!r}')
        self.w_bits, self.a_bits, self.scope, self.work_dir = w_bits, a_bits, scope, work_dir
        self.same_function, self.full_account = same_function, full_account
        self.overrides = dict(overrides or {})
        try:
            self.calibration = CalibrationConfig(**{'num_images': self.recipe.images} | dict(calibration or {}))
        except TypeError as error:
            raise ValueError(f'default_hooks.quantization.calibration={calibration}: {error}') from None
        self.calibration.check_enough(self.recipe)
        self._is_number_given = 'num_images' in (calibration or {})
        self._images: CalibrationImages | None = None
        self._task: ImageTask | None = None

    def prepare(
        self, model: nn.Module, config: Config, evaluated: str = 'test', progress: Progress | None = None
    ) -> None:
        """Find what can be found before anything runs: settings that do not fit the model, and missing images.

        Args:
            config: with the data sets.
            evaluated: the loader whose pipeline prepares the images, `test` or `val`.
            progress: a display that is already running; None starts one.
        """
        settings = self.w_bits, self.a_bits, self.scope, self.overrides
        plan_quantization(model, self.recipe, *settings)  # every error that needs no forward
        kind = kind_of(model)
        if not self._is_number_given:
            self.calibration = replace(self.calibration, num_images=max(kind.num_images, self.recipe.images))
        with _display(progress) as shown:
            self._images = build_calibration_images(config, self.calibration, evaluated, shown)
        wanted = needs(self.recipe)
        self._task = kind.task(self._images.samples, self.scope, wanted)
        check_task(self._task, model, wanted, self.recipe.name, self.recipe.images)

    def run(self, model: nn.Module, progress: Progress | None = None) -> tuple[Report, Plan]:
        """Quantize `model` in place with the prepared images.

        Args:
            progress: a display that is already running; None starts one.
        """
        images, task, self._images, self._task = self._images, self._task, None, None
        with _display(progress) as shown:
            model.eval()
            idle = task.idle_parts(model)
            overrides = self.overrides | {f'{name}.*': 'float' for name in idle}
            plans: list[Plan] = []
            report = quantize_(
                model,
                task,
                recipe=self.recipe,
                w_bits=self.w_bits,
                a_bits=self.a_bits,
                scope=self.scope,
                overrides=overrides,
                seed=self.calibration.seed,
                progress=shown,
                work_dir=self.work_dir,
                same_function=self.same_function,
                full_account=self.full_account,
                on_plan=plans.append,
            )
        _name_idle(report, idle)
        report.calibration = {'image_ids': images.ids, 'split': self.calibration.split}
        report.notes += images.notes
        report.versions = stack_versions()
        return report, plans[0]


def _display(progress: Progress | None) -> AbstractContextManager[Progress]:
    return nullcontext(progress) if progress else new_progress()


def _name_idle(report: Report, idle: list[str]) -> None:
    for name in idle:
        for layer in report.float_layers:
            if layer['name'].startswith(f'{name}.'):
                layer['reason'] = f'evaluation does not run {name}'
