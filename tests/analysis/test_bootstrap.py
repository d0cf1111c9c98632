"""AP of resampled images: it is COCOeval's own AP, and weights are the same as copies of images."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from erq_mm.analysis.bootstrap import average_precision, image_weights, interval
from erq_mm.benchmark.matches import coco_evaluation, collect_matches, from_arrays, match_detections, to_arrays

IMAGES, CATEGORIES = 12, (3, 5, 9)  # category 9 has detections and no object


def make_coco(images: list[int], boxes: dict[int, list[dict]]) -> COCO:
    """Return a COCO of the objects of `boxes`, image `images[i]` copied to id i + 1."""
    annotations = [
        box | {'image_id': copy, 'id': 1000 * copy + number}
        for copy, image in enumerate(images, 1)
        for number, box in enumerate(boxes[image], 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            'images': [{'id': i, 'width': 100, 'height': 100} for i in range(1, len(images) + 1)],
            'annotations': annotations,
            'categories': [{'id': c, 'name': str(c)} for c in CATEGORIES],
            'info': {},
        }
        coco.createIndex()
    return coco


@pytest.fixture
def scene() -> tuple[dict[int, list[dict]], dict[int, list[dict]]]:
    """Objects (one in eight a crowd) and detections that hit, miss and repeat them, by image; all scores differ."""
    rng = np.random.default_rng(3)
    objects, detections = {}, {}
    for image in range(1, IMAGES + 1):
        objects[image], detections[image] = [], []
        for number in range(int(rng.integers(0, 6))):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
            category = int(rng.choice(CATEGORIES[:2]))
            crowd = int(rng.random() < 1 / 8)
            objects[image].append({'bbox': box, 'area': box[2] * box[3], 'category_id': category, 'iscrowd': crowd})
            for _ in range(int(rng.integers(0, 4))):
                moved = (np.array(box) + rng.normal(0, 2.5, 4)).tolist()
                found = category if rng.random() < 0.8 else CATEGORIES[number % 3]
                detections[image].append({'bbox': moved, 'score': float(rng.random()), 'category_id': found})
    return objects, detections


def coco_ap(images: list[int], objects: dict, detections: dict) -> tuple[float, object]:
    """Return AP by COCOeval of a data set made of copies of images, and the evaluation."""
    found = [d | {'image_id': copy} for copy, image in enumerate(images, 1) for d in detections[image]]
    coco = make_coco(images, objects)
    evaluation = coco_evaluation(coco, found, 'bbox', CATEGORIES, range(1, len(images) + 1))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation


def test_all_weights_one_is_cocoeval(scene: tuple[dict, dict]) -> None:
    expected, evaluation = coco_ap(list(range(1, IMAGES + 1)), *scene)
    ap = average_precision(collect_matches(evaluation), np.ones((1, IMAGES), int))
    assert 0.1 < expected < 0.95
    assert abs(ap[0] - expected) < 1e-12


def test_weights_are_copies_of_images(scene: tuple[dict, dict]) -> None:
    """A resample by weights has the AP that COCOeval gives a data set in which the images really are repeated."""
    _, evaluation = coco_ap(list(range(1, IMAGES + 1)), *scene)
    weights = image_weights(IMAGES, replicates=5)
    assert (weights.sum(1) == IMAGES).all() and (weights == 0).any()
    replicates = average_precision(collect_matches(evaluation), weights)
    for counts, ap in zip(weights, replicates, strict=True):
        copies = [image for image, count in enumerate(counts, 1) for _ in range(count)]
        assert abs(coco_ap(copies, *scene)[0] - ap) < 1e-12


def test_all_replicates_at_once_equal_one_by_one(scene: tuple[dict, dict]) -> None:
    matches = collect_matches(coco_ap(list(range(1, IMAGES + 1)), *scene)[1])
    weights = image_weights(IMAGES, replicates=20)
    single = np.concatenate([average_precision(matches, row[None]) for row in weights])
    np.testing.assert_allclose(average_precision(matches, weights), single, rtol=1e-12)


def test_arrays_round_trip(scene: tuple[dict, dict]) -> None:
    matches = collect_matches(coco_ap(list(range(1, IMAGES + 1)), *scene)[1])
    ((task, restored),) = from_arrays(to_arrays({'bbox': matches})).items()
    weights = image_weights(IMAGES, replicates=3)
    assert task == 'bbox'
    np.testing.assert_array_equal(average_precision(restored, weights), average_precision(matches, weights))


def test_no_detection_at_all_is_zero(scene: tuple[dict, dict], tmp_path: Path) -> None:
    (tmp_path / 'none.json').write_text(json.dumps([]))
    coco = make_coco(list(range(1, IMAGES + 1)), scene[0])
    matches = match_detections(coco, tmp_path / 'none.json', 'bbox', CATEGORIES, coco.getImgIds())
    assert average_precision(matches, np.ones((1, IMAGES), int)) == [0.0]
    crowds = sum(box['iscrowd'] for boxes in scene[0].values() for box in boxes)
    assert crowds and matches.ground_truths.sum() == sum(map(len, scene[0].values())) - crowds


def test_paired_difference_of_equals_has_no_width(scene: tuple[dict, dict]) -> None:
    matches = collect_matches(coco_ap(list(range(1, IMAGES + 1)), *scene)[1])
    first, second = (average_precision(matches, image_weights(IMAGES)) for _ in range(2))
    found = interval(0.0, first - second)
    assert (found.low, found.high) == (0.0, 0.0)
    assert np.std(first) > 0.01


def test_interval_is_the_central_95_percent() -> None:
    found = interval(50.0, np.arange(0.0, 101.0))
    assert (found.value, found.low, found.high) == pytest.approx((50.0, 2.5, 97.5))
