"""Per-image matches of detections to ground truth, from pycocotools' own evaluation."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..analysis.bootstrap import Matches

FIELDS = ('category', 'image', 'is_true', 'is_false', 'ground_truths')


def match_detections(
    ground_truth: COCO, detections: Path, task: str, category_ids: Sequence[int], image_ids: Sequence[int]
) -> Matches:
    """Match the detections that mmdet's CocoMetric wrote, as COCOeval does for AP over all areas, 100 per image.

    Args:
        task: `bbox` or `segm`.
        category_ids: in any order; they become indices in rising order, as the images do.
    """
    found = json.loads(Path(detections).read_text())
    if not found:
        return _without_detections(ground_truth, category_ids, image_ids)
    if task == 'segm':
        found = [{key: value for key, value in item.items() if key != 'bbox'} for item in found]
    evaluation = coco_evaluation(ground_truth, found, task, category_ids, image_ids)
    return collect_matches(evaluation)


def coco_evaluation(
    ground_truth: COCO, found: list[dict], task: str, category_ids: Sequence[int], image_ids: Sequence[int]
) -> COCOeval:
    """Return a COCOeval whose `evaluate` has run."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(found), task)
        evaluation.params.catIds = list(category_ids)
        evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
    return evaluation


def collect_matches(evaluation: COCOeval) -> Matches:
    """Return the matches of an evaluated COCOeval: all areas, the largest number of detections per image."""
    params = evaluation.params
    categories, images, areas = len(params.catIds), len(params.imgIds), len(params.areaRng)
    ground_truths = np.zeros((categories, images), np.int32)
    parts: list[tuple[NDArray, ...]] = []
    for category in range(categories):
        first = category * areas * images  # the area range 'all' comes first
        entries = [
            (image, entry)
            for image, entry in enumerate(evaluation.evalImgs[first : first + images])
            if entry is not None
        ]
        for image, entry in entries:
            ground_truths[category, image] = np.count_nonzero(np.asarray(entry['gtIgnore']) == 0)
        parts.append(_sorted_category(category, entries, len(params.iouThrs), params.maxDets[-1]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Matches(*columns, ground_truths)


def _sorted_category(
    category: int, entries: list[tuple[int, dict]], thresholds: int, limit: int
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Return category, image, is_true and is_false of one category's detections by falling score."""
    scores = np.concatenate([np.empty(0), *(np.asarray(e['dtScores'][:limit], float) for _, e in entries)])
    image = np.concatenate(
        [np.empty(0, np.int32), *(np.full(len(e['dtScores'][:limit]), i, np.int32) for i, e in entries)]
    )
    nothing = np.empty((thresholds, 0), bool)
    matched = np.concatenate([nothing, *(e['dtMatches'][:, :limit] > 0 for _, e in entries)], axis=1).T
    ignored = np.concatenate([nothing, *(e['dtIgnore'][:, :limit] > 0 for _, e in entries)], axis=1).T
    order = np.argsort(-scores, kind='mergesort')  # stable, as in pycocotools: ties keep the order of images
    is_true, is_false = matched & ~ignored, ~matched & ~ignored
    return np.full(len(order), category, np.int16), image[order], is_true[order], is_false[order]


def _without_detections(ground_truth: COCO, category_ids: Sequence[int], image_ids: Sequence[int]) -> Matches:
    counts = np.zeros((len(category_ids), len(image_ids)), np.int32)
    category_index = {c: i for i, c in enumerate(sorted(category_ids))}
    image_index = {c: i for i, c in enumerate(sorted(image_ids))}
    for annotation in ground_truth.dataset['annotations']:
        row, column = category_index.get(annotation['category_id']), image_index.get(annotation['image_id'])
        if row is not None and column is not None and not annotation.get('iscrowd') and not annotation.get('ignore'):
            counts[row, column] += 1
    none = np.empty((0, 10), bool)
    return Matches(np.empty(0, np.int16), np.empty(0, np.int32), none, none, counts)


def to_arrays(matches: Mapping[str, Matches]) -> dict[str, NDArray]:
    """Return the arrays of an .npz: `bbox_category`, ..."""
    return {f'{task}_{name}': getattr(found, name) for task, found in matches.items() for name in FIELDS}


def from_arrays(arrays: Mapping[str, NDArray]) -> dict[str, Matches]:
    """Undo `to_arrays`."""
    tasks = sorted({name.partition('_')[0] for name in arrays})
    return {task: Matches(*(arrays[f'{task}_{name}'] for name in FIELDS)) for task in tasks}
