"""The generated set: deterministic, COCO-readable, as varied as promised."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from erq_mm.demo.shapes import CLASSES, SPLITS, draw_image, make_shapes


def test_the_same_seed_draws_the_same_bytes(tiny_shapes: Path, tmp_path: Path) -> None:
    again = tmp_path / 'again'
    make_shapes(again, splits={'train': 8, 'val': 4})
    for path in sorted(p.relative_to(tiny_shapes) for p in tiny_shapes.rglob('*') if p.is_file()):
        assert (tiny_shapes / path).read_bytes() == (again / path).read_bytes(), path


def test_annotations_are_what_coco_reads(tiny_shapes: Path) -> None:
    coco = COCO(str(tiny_shapes / 'annotations/instances_train.json'))
    assert len(coco.getImgIds()) == 8
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        x, y, width, height = annotation['bbox']
        rows, columns = np.nonzero(mask)
        assert annotation['segmentation']
        assert mask.sum() == pytest.approx(annotation['area'], rel=0.35)
        # outlines run through the centres of border pixels, so thin tips lose up to two pixels
        assert abs(columns.min() - x) <= 2
        assert abs(columns.max() + 1 - x - width) <= 2
        assert abs(rows.max() + 1 - y - height) <= 2


def test_variety() -> None:
    """All classes, small to large, occluded and truncated, sizes that are no multiple of a window."""
    images = [draw_image(np.random.default_rng([1, i])) for i in range(40)]
    areas = [mask.sum() for _, objects in images for _, mask in objects]
    assert {c for _, objects in images for c, _ in objects} == set(range(len(CLASSES)))
    assert min(areas) < 32**2 / 4
    assert max(areas) > 96**2 / 2
    assert any(mask[0].any() or mask[:, 0].any() for _, objects in images for _, mask in objects)
    assert any(picture.shape[0] % 28 for picture, _ in images)
    assert SPLITS['train'] >= 600
    assert SPLITS['val'] >= 150


def test_a_complete_set_is_left_alone_and_another_one_is_refused(tiny_shapes: Path) -> None:
    stamp = (tiny_shapes / 'stamp.json').stat().st_mtime_ns
    make_shapes(tiny_shapes, splits={'train': 8, 'val': 4})
    assert (tiny_shapes / 'stamp.json').stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match='move it away'):
        make_shapes(tiny_shapes, seed=8, splits={'train': 8, 'val': 4})
    assert json.loads((tiny_shapes / 'stamp.json').read_text())['seed'] == 7
