"""A config's evaluation pipeline for calibration: one view of every image, and no annotations."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadAnnotations, LoadImageFromFile, RandomFlip, TestTimeAug
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import TRANSFORMS

IGNORED_CLASS = 255  # the value of unlabelled pixels in a segmentation map
IMAGE_SOURCE = ('backend_args', 'file_client_args')


class LoadNoAnnotations(BaseTransform):
    """Run a loader of annotations as on an image without any objects.

    Steps behind it that read annotations go on working, whatever the image's annotations lack (masks, segmentation
    maps), and none of them drops the image because its objects are too small.

    Args:
        loader: config of a `LoadAnnotations` or a subclass, or the object.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = TRANSFORMS.build(loader) if isinstance(loader, dict) else copy.copy(loader)
        self.with_mask, self.with_map = getattr(self.loader, 'with_mask', False), self.loader.with_seg
        self.loader.with_seg = False  # there is no file to read: the empty map is made here

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add what the loader adds: zero boxes, labels and masks, and a segmentation map of ignored pixels."""
        results = self.loader(results | {'instances': [], 'segments_info': [], 'seg_map_path': None})
        if results is not None and self.with_mask:  # a panoptic loader reads masks from the map
            results.setdefault('gt_masks', BitmapMasks([], *results['ori_shape']))
        if results is not None and self.with_map:
            results['gt_seg_map'] = np.full(results['ori_shape'], IGNORED_CLASS, np.uint8)
        return results


def calibration_pipeline(pipeline: Sequence[Any]) -> list[Any]:
    """Return an evaluation pipeline whose loaders of annotations find none, with a single view of the image.

    Of every test-time augmentation the first choice remains, and no flip. All other steps stay as they are, also inside
    steps that wrap others.

    Args:
        pipeline: configs (types are names, scoped names or classes) or transforms.
    """
    return [adapted for step in pipeline for adapted in _adapt(step)]


def read_images_like(pipeline: Sequence[Any], source: Sequence[Any] | None) -> list[Any]:
    """Return `pipeline` with the file backend by which the pipeline `source` reads its images, if that reads any."""
    own = next((step for step in source or () if isinstance(step, dict) and _is_a(step, LoadImageFromFile)), None)
    if own is None:
        return list(pipeline)
    backend = {key: own[key] for key in IMAGE_SOURCE if key in own}
    return [_with_backend(step, backend) if _is_a(step, LoadImageFromFile) else step for step in pipeline]


def _with_backend(step: Any, backend: dict[str, Any]) -> Any:
    if not isinstance(step, dict):
        return step
    return type(step)({key: value for key, value in step.items() if key not in IMAGE_SOURCE} | backend)


def _adapt(step: Any) -> list[Any]:
    """Return the steps that take the place of `step`."""
    if _is_a(step, LoadAnnotations):
        return [{'type': LoadNoAnnotations, 'loader': step}]
    if not isinstance(step, dict):
        return [step]
    if _is_a(step, TestTimeAug):
        first = [choices[0] for choices in step['transforms']]
        return calibration_pipeline([choice for choice in first if not _is_a(choice, RandomFlip)])
    return [type(step)({key: _adapt_inside(value) for key, value in step.items()})]


def _adapt_inside(value: Any) -> Any:
    """Return an argument of a step, adapted where it is made of steps."""
    if type(value) in (list, tuple):
        nested = [_adapt(item) if _is_step(item) else [_adapt_inside(item)] for item in value]
        return type(value)(item for items in nested for item in items)
    if not _is_step(value):
        return value
    steps = _adapt(value)
    return steps[0] if len(steps) == 1 else steps


def _is_step(value: Any) -> bool:
    return isinstance(value, BaseTransform) or (isinstance(value, dict) and 'type' in value)


def _is_a(step: Any, kind: type) -> bool:
    """Return whether a step, config or object, is of a class, as mmengine would resolve its type."""
    found = step.get('type') if isinstance(step, dict) else type(step)
    if isinstance(found, str):
        with TRANSFORMS.switch_scope_and_registry(step.get('_scope_')) as registry:
            found = registry.get(found)
    return inspect.isclass(found) and issubclass(found, kind)
