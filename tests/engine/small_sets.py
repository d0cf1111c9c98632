"""COCO sets of a few tiny pictures, and configs on them, for tests that need no model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmengine.config import Config

from erq_mm.engine.calibration_data import CalibrationConfig, CalibrationImages, build_calibration_images

METAINFO = dict(classes=('thing',))
PACK = dict(type='PackDetInputs')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
TEST = [*LOAD, PACK]


def write_set(
    root: Path, name: str, ids: Sequence[int], empty: Sequence[int] = (), size: tuple[int, int] = (48, 32)
) -> dict[str, Any]:
    """Write random pictures of `size` (width, height), with an object each except `empty`; return the set's config."""
    width, height = size
    (root / name).mkdir(parents=True)
    for image_id in ids:
        picture = np.random.default_rng(image_id).integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(root / name / f'{image_id}.png'), picture)
    outline = [1, 1, 20, 1, 20, 20]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=width, height=height) for i in ids],
        annotations=[
            dict(id=i, image_id=i, category_id=1, bbox=[1, 1, 19, 19], area=361, iscrowd=0, segmentation=[outline])
            for i in ids
            if i not in empty
        ],
        categories=[dict(id=1, name='thing')],
    )
    (root / f'{name}.json').write_text(json.dumps(content))
    return coco_set(root, name)


def coco_set(root: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Return the config of a written set, as a training set has it."""
    return (
        dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'{name}.json',
            data_prefix=dict(img=f'{name}/'),
            metainfo=METAINFO,
            pipeline=[*LOAD, dict(type='RandomFlip', prob=0.5), PACK],
        )
        | changes
    )


class Folder(BaseDetDataset):
    """Every image of a folder, without an annotation file."""

    def load_data_list(self) -> list[dict]:
        paths = sorted(Path(self.data_prefix['img']).iterdir())
        return [dict(img_path=str(path), img_id=f'{path.stem}', instances=[]) for path in paths]


def wrap(kind: str, *datasets: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a data set around others."""
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=list(datasets))
    options = {
        'RepeatDataset': dict(times=3),
        'ClassBalancedDataset': dict(oversample_thr=0.5),
        'MultiImageMixDataset': dict(pipeline=[dict(type='Mosaic', img_scale=(32, 32)), PACK]),
    }
    return dict(type=kind, dataset=datasets[0], **options[kind])


def make_config(train: Any = None, val: Any = None, test: Any = None, pipeline: Any = None) -> Config:
    """Return a config with these data sets in its loaders.

    Args:
        pipeline: of a test loader on the training set, in the place of `test`.
    """
    if pipeline is not None:
        test = dict(train, test_mode=True, pipeline=pipeline)
    sets = dict(train=train, val=val, test=test)
    return Config({f'{split}_dataloader': dict(dataset=data) for split, data in sets.items() if data is not None})


def build(config: Config, evaluated: str = 'test', **options: Any) -> CalibrationImages:
    """Return the calibration images of `CalibrationConfig(**options)`."""
    return build_calibration_images(config, CalibrationConfig(**options), evaluated)
