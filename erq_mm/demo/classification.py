"""The classification demo: what a classifier gets right float and with several recipes, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from ..analysis.bootstrap import Interval, image_weights, interval
from ..calibration.report import Report
from .run import run_test

REPLICATES = 2000
ALL_IMAGES = 2**31


@dataclass(frozen=True)
class Predictions:
    """What one run says of the val images, in the order of the data set.

    Attributes:
        name: of the run.
        labels, predicted: (images,), classes.
        paths: of the images.
        report: of the quantization; None for float.
        scores: (images, classes), probabilities; None if they were not kept.
    """

    name: str
    labels: NDArray
    predicted: NDArray
    paths: Sequence[str]
    report: Report | None = None
    scores: NDArray | None = None

    @property
    def correct(self) -> NDArray:
        """Which images it is right on, bool (images,)."""
        return self.labels == self.predicted

    @property
    def top1(self) -> float:
        """Accuracy in percent."""
        return 100 * float(self.correct.mean())


def predict(
    config: str,
    checkpoint: str,
    name: str,
    quantization: dict[str, Any] | None,
    work_dir: Path,
    progress: Progress,
    options: Sequence[str] = (),
) -> Predictions:
    """Return the predictions of one test run; the arguments are those of `run_test`."""
    outcome = run_test(config, checkpoint, name, quantization, work_dir, progress, options, keep=ALL_IMAGES)
    return predictions_of(name, outcome.samples, outcome.report)


def predictions_of(name: str, samples: Sequence[BaseDataElement], report: Report | None = None) -> Predictions:
    """Return the predictions in mmpretrain's data samples."""
    labels, predicted = (
        np.array([int(getattr(sample, key)) for sample in samples]) for key in ('gt_label', 'pred_label')
    )
    has_scores = all('pred_score' in sample for sample in samples)
    scores = np.stack([sample.pred_score.numpy() for sample in samples]) if has_scores else None
    return Predictions(name, labels, predicted, [sample.img_path for sample in samples], report, scores)


def paired_difference(first: Predictions, second: Predictions) -> Interval:
    """Return the top-1 of `first` minus that of `second` in points, with its 95 % interval over the images.

    Both are resampled together, image by image: what counts is on how many images only one of them is right.
    """
    difference = 100 * (first.correct.astype(float) - second.correct)
    resampled = image_weights(len(difference), REPLICATES) @ difference / len(difference)
    return interval(float(difference.mean()), resampled)


def accuracy_table(title: str, base: Predictions, runs: dict[str, list[Predictions]]) -> Table:
    """Return one row per recipe: top-1, difference to float with its paired interval, per bits.

    Args:
        base: the float model.
        runs: bits as the head of their columns -> the recipes, in the same order each.
    """
    table = Table(title=title)
    table.add_column('recipe')
    for bits in runs:
        for column in (f'{bits} top-1', 'to float [95 %]'):  # with two bit-widths 80 characters in all
            table.add_column(column, justify='right')
    table.add_row(base.name, *[f'{base.top1:.1f}', ''] * len(runs))
    for row in zip(*runs.values(), strict=True):
        table.add_row(row[0].name, *[text for run in row for text in _cells(run, base)])
    return table


def _cells(run: Predictions, base: Predictions) -> list[str]:
    against = paired_difference(run, base)
    return [f'{run.top1:.1f}', f'{against.value:+.1f} [{against.low:+.1f}, {against.high:+.1f}]']


def telling_images(base: Predictions, runs: Sequence[Predictions], count: int) -> list[int]:
    """Return images that float is right on and most runs, but not all, disagree about, in the order of the data set.

    The share of runs that are wrong is taken as near to a half as possible, so that the pictures show differences.
    """
    wrong = np.mean([~run.correct for run in runs], axis=0)
    distance = np.abs(wrong - 0.5) + 10 * ~base.correct
    order = np.random.default_rng(0).permutation(len(distance))  # the data set is sorted by class
    return sorted(order[np.argsort(distance[order], kind='stable')[:count]].tolist())
