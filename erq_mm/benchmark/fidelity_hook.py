"""Measures fidelity in the run of a cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..engine.fidelity import held_out_images, measure_fidelity
from ..engine.hook import ERQHook, unwrap
from ..engine.model_kinds import kind_of_config
from .analyses import load_detector
from .detectors import Detector


class MeasureFidelity(Hook):
    """Put the fidelity into the report of a run's `ERQHook`; a run without one has none.

    It works after the first batch: the model is quantized then, its quantizers are no longer watched for clipping, and
    what goes wrong costs no evaluation. The float model is loaded for it, and given up again.
    """

    priority = 'VERY_LOW'

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        report = next((hook.report for hook in runner.hooks if isinstance(hook, ERQHook)), None)
        if batch_idx == 0 and report is not None:
            config, float_model = load_detector(self.detector)
            images = held_out_images(config, report.calibration, kind_of_config(config).fidelity_images)
            if images is None:
                report.notes.append('no fidelity: all images of the test split calibrated')
            else:
                report.fidelity = measure_fidelity(float_model, unwrap(runner.model), images)
                report.notes += _undefined(report.fidelity['units'])


def _undefined(units: Mapping[str, float | None]) -> list[str]:
    names = [name for name, fraction in units.items() if fraction is None]
    return [f'no fidelity of {names}: constant in the float model, or not finite'] if names else []
