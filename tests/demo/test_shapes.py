"""The generated set: deterministic, COCO-readable, as varied as promised."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from erq_mm.demo.shapes import CLASSES, SPLITS, draw_image, make_shapes, make_test_shapes


def test_the_same_seed_draws_the_same_bytes(tiny_shapes: Path, tmp_path: Path) -> None:
    again = tmp_path / 'again'
    make_shapes(again, splits={'train': 8, 'val': 4})
    for path in sorted(p.relative_to(tiny_shapes) for p in tiny_shapes.rglob('*') if p.is_file()):
        assert (tiny_shapes / path).read_bytes() == (again / path).read_bytes(), path


def test_a_split_of_the_demo_keeps_its_first_image(tiny_shapes: Path) -> None:
    """Streams of random numbers are told by name: training stays [7, 0, id], validation [7, 1, id]."""
    for split, stream in (('train', 0), ('val', 1)):
        picture, objects = draw_image(np.random.default_rng([7, stream, 1]))
        encoded = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        assert (tiny_shapes / split / '000001.jpg').read_bytes() == encoded
        truth = json.loads((tiny_shapes / f'annotations/instances_{split}.json').read_text())
        assert sum(one['image_id'] == 1 for one in truth['annotations']) == len(objects)


def test_a_test_set_has_other_images_and_grows_at_its_end(tiny_shapes: Path, tmp_path: Path) -> None:
    small, large = tmp_path / 'small', tmp_path / 'large'
    make_test_shapes(small, 2)
    make_test_shapes(large, 3)
    drawn = {path.name: path.read_bytes() for path in (large / 'test').iterdir()}
    assert {path.name: path.read_bytes() for path in (small / 'test').iterdir()}.items() < drawn.items()
    demo = {path.read_bytes() for split in ('train', 'val') for path in (tiny_shapes / split).iterdir()}
    assert len(drawn) == 3 and not demo & set(drawn.values())
    assert COCO(str(large / 'annotations/instances_test.json')).getImgIds() == [1, 2, 3]


def test_a_cached_test_set_is_left_alone_and_half_a_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_test_shapes(tmp_path / 'set', 1)
    with monkeypatch.context() as broken:
        broken.setattr('erq_mm.demo.shapes.draw_image', lambda rng: pytest.fail('drew again'))
        make_test_shapes(tmp_path / 'set', 1)
        with pytest.raises(FileExistsError, match='move it away'):
            make_test_shapes(tmp_path / 'set', 2)
    (tmp_path / 'set/stamp.json').unlink()
    with pytest.raises(FileExistsError, match='is not this data set'):
        make_test_shapes(tmp_path / 'set', 1)
    drawn = iter([draw_image(np.random.default_rng(0))])
    monkeypatch.setattr('erq_mm.demo.shapes.draw_image', lambda rng: next(drawn))  # and stops at the second image
    with pytest.raises(StopIteration):
        make_test_shapes(tmp_path / 'other', 2)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('splits', [{'test': 0}, {'test': True}, {'minival': 3}])
def test_splits_that_are_none_are_named(splits: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'train', 'val', 'test'.*{next(iter(splits))}"):
        make_shapes(tmp_path / 'set', splits=splits)


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
