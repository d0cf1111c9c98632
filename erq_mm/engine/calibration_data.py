"""Calibration images: the user's own data set as it is, through the pipeline of the evaluation."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from rich.progress import Progress

from ..calibration.recipes import Recipe
from .image_checks import degenerate_note
from .image_choice import Place, choose_images, find_images
from .split_sets import SPLITS, input_error, open_split, other_splits


@dataclass(frozen=True)
class CalibrationConfig:
    """Which images calibrate.

    Attributes:
        num_images: how many, chosen by `seed`; a larger number contains the smaller one's images.
        split: whose data set.
        seed: of the choice, and of random steps of the pipeline.
        image_ids: explicit image ids instead, as in the report; then `num_images` is not used.
    """

    num_images: int = 1
    split: str = 'train'
    seed: int = 0
    image_ids: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f'calibration split must be one of {SPLITS}, got {self.split!r}')
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f'calibration seed must be an integer from 0 to 2**32 - 1, got {self.seed!r}')
        if isinstance(self.image_ids, (int, str)):  # --cfg-options turns a single value into no list
            object.__setattr__(self, 'image_ids', (self.image_ids,))
        if self.image_ids is not None:
            object.__setattr__(self, 'image_ids', tuple(self.image_ids))
        too_few = not isinstance(self.num_images, int) or self.num_images < 1
        if self.image_ids == () or (self.image_ids is None and too_few):
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


@dataclass(frozen=True)
class CalibrationImages:
    """The images, in the order of their choice.

    Attributes:
        samples: as the pipeline packs them; the data sample has the `img_id` of the report.
        ids: what the report calls them: the image id, with the name of its set in front (`instances_a.json:17`) where
            the split has several.
        notes: warnings about single images.
    """

    samples: list[dict[str, Any]]
    ids: list[int | str]
    notes: list[str]


def build_calibration_images(
    config: Config, calibration: CalibrationConfig, evaluated: str = 'test', progress: Progress | None = None
) -> CalibrationImages:
    """Return the images as the evaluation packs them, but without their annotations.

    Every data set of the split is built as its config says (filters, subsets, file backends), with the pipeline of the
    evaluation in the place of its own. Global random states are as before afterwards.

    Args:
        evaluated: the loader that is evaluated, `test` or `val`, whose pipeline prepares the images; the other one's
            does if the config has only that.
        progress: a started display, for data sets that give their records one by one; or None.

    Raises:
        ValueError: a loader is missing, a data set is empty or cannot be built, an image is not in it or not usable.
        FileNotFoundError: annotations or an image cannot be read.
    """
    with _seeded(calibration.seed):
        sets = open_split(config, calibration.split, evaluated, progress)
        if calibration.image_ids is None:
            places = choose_images(sets, calibration.num_images, calibration.seed)
        else:
            places = find_images(sets, calibration.image_ids)
        samples = [_load(place, config, calibration.split) for place in places]
    ids = [image_set.label(index) for image_set, index in places]
    notes = [degenerate_note(image_id, sample) for image_id, sample in zip(ids, samples, strict=True)]
    return CalibrationImages(samples, ids, [note for note in notes if note is not None])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that pipelines draw from while the block runs, and put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # of the CPU alone: torch.manual_seed would seed CUDA's too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _load(place: Place, config: Config, split: str) -> dict[str, Any]:
    """Return one image as packed, with the id that the report gives it."""
    image_set, index = place
    label, way_out = image_set.label(index), other_splits(config, split)
    which = f'calibration image {label} of the {split} split, {image_set.image_path(index)},'
    try:
        sample = image_set.load(index)
    except Exception as error:  # whatever a step of a user's pipeline raises
        message = f'{which} cannot be loaded; choose others with calibration.image_ids or seed{way_out}'
        raise input_error(error, message) from error
    if not isinstance(sample, Mapping) or not isinstance(sample.get('data_samples'), BaseDataElement):
        raise ValueError(
            f'{which} comes out of the pipeline as {type(sample).__name__} without a data sample; calibration needs a '
            'pipeline that ends in PackDetInputs or the like'
        )
    sample['data_samples'].set_metainfo({'img_id': label})
    return sample
