"""Average precision of resampled image sets, and confidence intervals from it.

A resample draws as many images as there are, with replacement: a weight per image. Matching of detections to ground
truth is per image and never changes; only the precision-recall curve is weighted, so hundreds of resamples cost little.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RECALLS = np.linspace(0.0, 1.0, 101)  # as in pycocotools
ELEMENTS_PER_CHUNK = 2**23
REPLICATES = 300
SEED = 0


@dataclass(frozen=True)
class Matches:
    """Detections of one task (boxes or masks), by category and then by falling score.

    Attributes:
        category, image: (detections,), indices.
        is_true, is_false: (detections, IoU thresholds), bool; neither where a detection is ignored.
        ground_truths: (categories, images), how many count.
    """

    category: NDArray
    image: NDArray
    is_true: NDArray
    is_false: NDArray
    ground_truths: NDArray


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval."""

    value: float
    low: float
    high: float


def image_weights(images: int, replicates: int = REPLICATES, seed: int = SEED) -> NDArray:
    """Return how often each image is drawn, (replicates, images); the same for every recipe: they are paired."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=replicates)


def average_precision(matches: Matches, weights: NDArray) -> NDArray:
    """Return AP in 0..1 of each row of `weights`, (replicates, images) -> (replicates,).

    All weights 1 give `COCOeval.stats[0]`. A replicate without any ground truth gives NaN.
    """
    rows = max(1, ELEMENTS_PER_CHUNK // max(len(matches.image), 1))
    return np.concatenate([_average_precision(matches, weights[i : i + rows]) for i in range(0, len(weights), rows)])


def _average_precision(matches: Matches, weights: NDArray) -> NDArray:
    total, categories = np.zeros(len(weights)), np.zeros(len(weights))
    bounds = np.searchsorted(matches.category, np.arange(len(matches.ground_truths) + 1))
    for index, counts in enumerate(matches.ground_truths):
        positives = weights @ counts
        present = positives > 0  # a category that a resample does not contain has no AP there
        part = slice(bounds[index], bounds[index + 1])
        drawn = weights[:, matches.image[part]]
        curves = [
            _threshold_precision(is_true, is_false, drawn, np.maximum(positives, 1))
            for is_true, is_false in zip(matches.is_true[part].T, matches.is_false[part].T, strict=True)
        ]
        total += np.where(present, np.mean(curves, axis=0), 0.0)
        categories += present
    return np.divide(total, categories, out=np.full(len(weights), np.nan), where=categories > 0)


def _threshold_precision(is_true: NDArray, is_false: NDArray, drawn: NDArray, positives: NDArray) -> NDArray:
    """Return the mean precision over recall thresholds, (replicates,), of one category at one IoU threshold.

    Recall rises only at true positives, so the curve is evaluated there alone.
    """
    hits = np.flatnonzero(is_true)
    if not len(hits):
        return np.zeros(len(drawn))
    until_last = slice(0, hits[-1] + 1)
    starts = np.concatenate([[0], hits[:-1]])  # a hit is no false positive, so it may open the next segment
    true = np.cumsum(drawn[:, hits], axis=1)
    false = np.cumsum(np.add.reduceat(drawn[:, until_last] * is_false[until_last], starts, axis=1), axis=1)
    precision = true / (true + false + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate([envelope, np.zeros((len(drawn), 1))], axis=1)  # beyond the highest recall
    recall = true / positives[:, None]
    reached = [np.searchsorted(row, RECALLS) for row in recall]
    return np.take_along_axis(envelope, np.array(reached), axis=1).mean(1)


def interval(value: float, replicates: NDArray, level: float = 0.95) -> Interval:
    """Return the percentile interval of replicates around an estimate."""
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
