"""Classifiers: top-1 accuracy, from whether each image's best class is its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy.typing import NDArray

from .base import Arrays, Metric, Protocol, Recorder, evaluators, type_name

CORRECT = 'top1_correct'
METRIC_TYPES = ('Accuracy', 'TopKAccuracy')  # of mmpretrain, and ours that derives from it


class TopOneProtocol(Protocol):
    """Share of the images whose best class is their label."""

    metrics = (Metric('top1', 'top-1', 'top-1', 'top1', 'top1', 'accuracy/top1', scale=1.0),)
    needs = 'an Accuracy'

    def fits(self, config: Config) -> bool:
        return any(type_name(evaluator) in METRIC_TYPES for evaluator in evaluators(config))

    def recorder(self, config: Config, work_dir: Path) -> Recorder:
        return HitRecorder()

    def percent(self, arrays: Arrays, weights: Callable[[int], NDArray]) -> dict[str, NDArray]:
        drawn = weights(len(arrays[CORRECT]))
        return {'top1': 100 * (drawn @ arrays[CORRECT].astype(float)) / drawn.sum(1)}


class HitRecorder(Recorder):
    """Notes for every test image, in the order of the data set, whether it was classified correctly."""

    def __init__(self) -> None:
        self._hook = NoteHits()
        self.hooks = (self._hook,)

    def arrays(self) -> dict[str, NDArray]:
        return {CORRECT: np.array(self._hook.hits, bool)}


class NoteHits(Hook):
    """Keeps one truth value per evaluated image; logits and images are not kept."""

    def __init__(self) -> None:
        self.hits: list[bool] = []

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        self.hits += [int(sample.pred_score.argmax()) == int(sample.gt_label) for sample in outputs or ()]
