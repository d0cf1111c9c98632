"""How faithful a quantized model is to its float model, part by part, on images that did not calibrate.

Accuracy on some hundred images does not resolve half a point; outputs do, as they compare millions of numbers.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..calibration.precision import full_precision
from ..core.unexplained import UnexplainedVariance
from .calibration_data import CalibrationConfig, CalibrationImages, build_calibration_images
from .image_choice import choose_images, find_images
from .image_sets import ImageSet, image_folder, leaf_datasets
from .model_kinds import kind_of
from .outputs import Outputs
from .split_sets import open_split

SEED = 0
SPLIT = 'test'
BESIDE = ('mask',)  # parts that are not in the mean: detectors without a mask head stay comparable


def held_out_images(config: Config, calibration: Mapping[str, Any], count: int) -> CalibrationImages | None:
    """Return up to `count` images of the test split that did not calibrate; None if there is no such image.

    A fixed seed chooses them, so that all recipes, bits and choices of calibration images are compared on the same
    images. Those that calibrated are passed over, by the path of their file: the splits of a config may overlap.

    Args:
        calibration: `split` and `image_ids`, as in the report of a quantization.
    """
    taken = _paths(config, calibration)
    order = choose_images(open_split(config, SPLIT, SPLIT, None), None, SEED)
    free = (image_set.label(index) for image_set, index in order if _path(image_set, index) not in taken)
    chosen = tuple(islice(free, count))
    if not chosen:
        return None
    return build_calibration_images(config, CalibrationConfig(split=SPLIT, seed=SEED, image_ids=chosen), SPLIT)


def _paths(config: Config, calibration: Mapping[str, Any]) -> set[str]:
    """Return where the images that calibrated are, as far as the test split could have them."""
    if not _may_overlap(config, calibration['split']):  # opening ImageNet once more takes minutes
        return set()
    sets = open_split(config, calibration['split'], SPLIT, None)
    return {_path(image_set, index) for image_set, index in find_images(sets, calibration['image_ids'])}


def _may_overlap(config: Config, split: str) -> bool:
    """Whether a data set of a split has a folder of images, or one above or below it, in common with the test split."""
    own, others = (
        [os.path.realpath(image_folder(leaf)) for leaf in leaf_datasets(config[f'{name}_dataloader'].dataset)]
        for name in (split, SPLIT)
    )
    return any(os.path.commonpath(pair) in pair for pair in product(own, others))


def _path(image_set: ImageSet, index: int) -> str:
    path = image_set.image_path(index)
    return f'{image_set.location}:{index}' if path is None else os.path.realpath(path)


def measure_fidelity(float_model: nn.Module, model: nn.Module, images: CalibrationImages) -> dict[str, Any]:
    """Return the fraction of the float model's outputs that a model leaves unexplained (`UnexplainedVariance`).

    The float model runs first, and the regions that it proposes go through the heads of both.

    Returns:
        `mean` of the parts without the mask head; `parts`: part -> fraction, the mean over its levels or stages;
        `units`: these one by one; `split` and `image_ids`. A fraction is None where there is none, and a mean of it.
    """
    kind = kind_of(model)
    task = kind.task(images.samples, 'all', set())
    sums: dict[str, UnexplainedVariance] = defaultdict(UnexplainedVariance)
    with torch.no_grad(), full_precision():
        for index in range(len(task)):
            reference = kind.outputs(float_model, task, index)
            add_outputs(sums, reference, kind.outputs(model, task, index))
    return summary(sums) | {'split': SPLIT, 'image_ids': images.ids}


def add_outputs(sums: dict[str, UnexplainedVariance], reference: Outputs, outputs: Outputs) -> None:
    """Add the outputs of one image.

    Raises:
        ValueError: they are not outputs of the same parts with the same shapes; names the part.
    """
    for name in dict.fromkeys([*reference, *outputs]):
        own, others = reference.get(name, []), outputs.get(name, [])
        if len(own) != len(others):
            raise ValueError(f'{name} has {len(others)} outputs and {len(own)} in the float model')
        for f, q in zip(own, others, strict=True):
            try:
                sums[name].add(f, q)
            except ValueError as error:
                raise ValueError(f'{name}: {error}') from error


def summary(sums: Mapping[str, UnexplainedVariance]) -> dict[str, Any]:
    """Return `mean`, `parts` and `units` of `measure_fidelity`; units of no numbers are left out."""
    units = {name: found.fraction for name, found in sums.items() if found.count}
    by_part: dict[str, list[float | None]] = defaultdict(list)
    for name, fraction in units.items():
        by_part[name.partition('.')[0]].append(fraction)
    parts = {part: _mean(fractions) for part, fractions in by_part.items()}
    return {'mean': _mean([parts[part] for part in parts if part not in BESIDE]), 'parts': parts, 'units': units}


def _mean(fractions: Sequence[float | None]) -> float | None:
    return float(np.mean(fractions)) if fractions and None not in fractions else None
