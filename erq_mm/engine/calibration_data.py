"""Calibration images: a split of the config's own data set, through the test pipeline."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config

from ..calibration.recipes import Recipe

SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class CalibrationConfig:
    """Which images calibrate.

    Attributes:
        num_images: how many, chosen by `seed`; a larger number contains the smaller one's images.
        split: whose data set.
        seed: of the choice.
        image_ids: explicit COCO image ids instead; then `num_images` and `seed` are not used.
    """

    num_images: int = 1
    split: str = 'train'
    seed: int = 0
    image_ids: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f'calibration split must be one of {SPLITS}, got {self.split!r}')
        if self.image_ids is not None:
            object.__setattr__(self, 'image_ids', tuple(self.image_ids))
        if self.image_ids == () or (self.image_ids is None and self.num_images < 1):
            raise ValueError(
                f'calibration needs at least one image, got num_images={self.num_images}, image_ids={self.image_ids}'
            )

    def check_enough(self, recipe: Recipe) -> None:
        """Raise ValueError if the recipe needs more images than these."""
        count = self.num_images if self.image_ids is None else len(self.image_ids)
        if count < recipe.images:
            raise ValueError(
                f'recipe {recipe.name!r} asks for at least {recipe.images} calibration images, calibration gives '
                f'{count}: set default_hooks.quantization.calibration.num_images={recipe.images}, or the recipe to '
                f"fewer, e.g. recipe=dict(type='{recipe.name}', images={count})"
            )


def build_calibration_images(config: Config, calibration: CalibrationConfig) -> list[dict[str, Any]]:
    """Return the images as the test pipeline packs them, each with its `img_id` in the data sample.

    Raises:
        ValueError: the config has no such data set, or an image id is not in it.
        FileNotFoundError: the annotation file or an image is missing.
    """
    dataset = _build_dataset(config, calibration.split)
    indices = _choose(dataset, calibration)
    return [dataset[index] for index in indices]


def _build_dataset(config: Config, split: str) -> Any:
    loader, test_loader = config.get(f'{split}_dataloader'), config.get('test_dataloader')
    if loader is None or test_loader is None:
        raise ValueError(
            f'the config has no {split}_dataloader to calibrate on; set default_hooks.quantization.calibration.split '
            f'to one of {[s for s in SPLITS if config.get(f"{s}_dataloader")]}'
        )
    dataset = innermost_dataset(loader.dataset).copy()
    dataset.pipeline = _plain_pipeline(innermost_dataset(test_loader.dataset).pipeline)
    dataset.test_mode = True
    dataset.pop('indices', None)
    path = os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    if not path.startswith(('http:', 'https:', 's3:')) and not os.path.isfile(path):
        raise FileNotFoundError(
            f'calibration images come from the {split} split, whose annotation file {path} does not exist; set '
            f'{split}_dataloader.dataset.data_root and ann_file, or '
            'default_hooks.quantization.calibration.split=val'
        )
    return DATASETS.build(dataset)


def innermost_dataset(dataset: Any) -> Any:
    """Return the config of the data set inside RepeatDataset, MultiImageMixDataset and the like."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def _plain_pipeline(pipeline: list[Any]) -> list[Any]:
    """Return the test pipeline without annotations, and with the first choice of every test-time augmentation."""
    steps = []
    for step in pipeline:
        options = step['transforms'] if step['type'] == 'TestTimeAug' else [[step]]
        steps += [choices[0] for choices in options if choices[0]['type'] not in ('LoadAnnotations', 'RandomFlip')]
    return steps


def _choose(dataset: Any, calibration: CalibrationConfig) -> list[int]:
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    if calibration.image_ids is not None:
        index_of = {str(info['img_id']): index for index, info in enumerate(infos)}
        missing = [i for i in calibration.image_ids if str(i) not in index_of]
        if missing:
            raise ValueError(
                f'calibration image ids {missing} are not in {dataset.ann_file} ({len(infos)} images, '
                f'e.g. ids {[info["img_id"] for info in infos[:3]]})'
            )
        return [index_of[str(i)] for i in calibration.image_ids]
    with_objects = [index for index, info in enumerate(infos) if info.get('instances')] or list(range(len(infos)))
    with_objects.sort(key=lambda index: str(infos[index]['img_id']))
    if calibration.num_images > len(with_objects):
        raise ValueError(
            f'calibration asks for {calibration.num_images} images and {dataset.ann_file} has {len(with_objects)} '
            'with objects; lower num_images'
        )
    order = np.random.RandomState(calibration.seed).permutation(len(with_objects))
    return [with_objects[i] for i in order[: calibration.num_images]]
