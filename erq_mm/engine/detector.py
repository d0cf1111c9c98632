"""Calibration images of a detector: its own full forward, its own loss, and its dense predictions."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import DetectionTransformer, TwoStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..calibration.state import full_precision
from ..calibration.task import CalibrationTask, Predictions
from .image_copies import altered_copies
from .model_kinds import ImageTask
from .objectives import dense_divergence, detector_loss
from .two_stage import RegionMemory, evaluated_part, ignores_masks, is_known_two_stage, stages, two_stage_parts


class DetectorTask(ImageTask):
    """Calibration images of one mmdet detector, through its own `test_step`: layers see what they see at test time.

    The first run of an image, which must be of the float model, remembers the regions of interest of known two-stage
    detectors; later runs send the same regions through the heads, so that rows of a float and of a quantized run belong
    together. Their masks are computed only where the detector's forward goes on with them.

    Args:
        images: packed by the test pipeline.
        with_masks: also run the mask head of a known two-stage detector (needed only if its convolutions are
            quantized), on the best boxes whatever their score, so that it sees rows on every image.
        with_labels: remember the float model's detections, which `loss` takes for ground truth.
    """

    def __init__(self, images: Sequence[dict[str, Any]], with_masks: bool, with_labels: bool = False) -> None:
        self.images, self.with_masks, self.with_labels = list(images), with_masks, with_labels
        self._sources = len(self.images)
        self._memories: dict[tuple[int, str], RegionMemory] = {}  # by image, and name of the detector in the model

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> list[Any]:
        return [image['data_samples'].img_id for image in self.images]

    def offers(self, model: nn.Module) -> set[str]:
        _, detector = evaluated_part(model)
        if not is_known_two_stage(detector):
            return set()
        has_loss = detector.train_cfg is not None and type(detector).loss is TwoStageDetector.loss
        return {'loss', 'predictions'} if has_loss and not self._needs_masks(model) else {'predictions'}

    def with_copies(self, count: int, seed: int) -> 'DetectorTask':
        copies = [
            copy
            for index, image in enumerate(self.images)
            for copy in altered_copies(image, count, seed + 1000 * index)
        ]
        more = DetectorTask([*self.images, *copies], self.with_masks, self.with_labels)
        more._memories, more._sources = dict(self._memories), len(self.images)
        return more

    def sources(self) -> int:
        return self._sources

    def idle_parts(self, model: nn.Module) -> list[str]:
        return idle_detectors(model, self)

    def pairs_rows(self, model: nn.Module, name: str) -> bool:
        """Whether row i of a layer is of the same place or region of an image in every run.

        Backbones, necks and dense heads run on all places of a feature map, and known two-stage heads on remembered
        regions; others choose for themselves what they look at.
        """
        path = name.split('.')
        for depth in reversed(range(len(path))):
            detector = model.get_submodule('.'.join(path[:depth]))
            if isinstance(detector, BaseDetector):
                return _pairs_rows(detector, path[depth])
        return False

    def relevance(self, model: nn.Module, name: str, indices: Sequence[int]) -> Tensor | None:
        """Return what regions of interest count in the layers of box heads (`RegionMemory.relevance`)."""
        place = _box_stage(model, name)
        if place is None:
            return None
        return torch.cat([self._memory(index, place.detector).relevance(place.stage) for index in indices])

    def more_rows(
        self, model: nn.Module, name: str, indices: Sequence[int], x: Tensor, count: int, seed: int
    ) -> Callable[[Tensor], Tensor] | None:
        """Return what mixes more regions of an image's own behind them, where a box head gets them."""
        place = _box_stage(model, name)
        if place is None or len(indices) != 1:
            return None
        mix = self._memory(indices[0], place.detector).mix(place.head, place.stage, x, count, seed)
        return None if mix is None else mix.appended

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if no image gives a proposal: the box head would never be calibrated."""
        reached = [memory for memory in self._memories.values() if memory.was_run]
        if reached and not any(memory.has_regions for memory in reached):
            raise ValueError(
                f'calibration images {self.identity()} gave no proposals, so the box head cannot be calibrated; choose '
                'others with default_hooks.quantization.calibration.image_ids or another seed'
            )

    def forward(self, model: nn.Module, index: int) -> None:
        needs_masks = self._needs_masks(model)
        with ExitStack() as stack:
            for name, detector in two_stage_parts(model).items():
                stack.enter_context(self._memory(index, name).attached(detector, needs_masks))
            model.test_step(self._batch(index))

    def loss(self, model: nn.Module, index: int) -> Tensor:
        name, detector = evaluated_part(model)
        labels = self._memory(index, name).labels
        if labels is None:
            raise RuntimeError(f'image {index} has no labels: run the float model first, with with_labels=True')
        return detector_loss(detector, self._preprocess(model, index), labels, seed=index)

    def predict(self, model: nn.Module, index: int) -> Predictions:
        """Return the region proposal network's class scores of all levels, then its box deltas."""
        _, detector = evaluated_part(model)
        scores, deltas = detector.rpn_head(detector.extract_feat(self._preprocess(model, index)['inputs']))
        return (*scores, *deltas)

    def divergence(self, predictions: Predictions, reference: Predictions) -> Tensor:
        return dense_divergence(predictions, reference)

    def _memory(self, index: int, name: str) -> RegionMemory:
        return self._memories.setdefault((index, name), RegionMemory(self.with_masks, self.with_labels))

    def _needs_masks(self, model: nn.Module) -> bool:
        return not ignores_masks(evaluated_part(model)[1])

    def _batch(self, index: int) -> dict[str, Any]:
        """Return a batch of one image whose sample is a copy: predictions must not pile up in the stored ones."""
        image = self.images[index]
        return pseudo_collate([image | {'data_samples': image['data_samples'].clone()}])

    def _preprocess(self, model: nn.Module, index: int) -> dict[str, Any]:
        return model.data_preprocessor(self._batch(index), False)


@dataclass(frozen=True)
class _BoxStage:
    """A stage of the region head of a detector in a model."""

    detector: str
    head: nn.Module
    stage: int


def _box_stage(model: nn.Module, name: str) -> _BoxStage | None:
    """Return in which box head of a known two-stage detector a layer is, if it is in one."""
    layer = model.get_submodule(name)
    for detector_name, detector in two_stage_parts(model).items():
        for stage, head in enumerate(stages(detector.roi_head.bbox_head)):
            if any(module is layer for module in head.modules()):
                return _BoxStage(detector_name, detector.roi_head, stage)
    return None


def _pairs_rows(detector: BaseDetector, part: str) -> bool:
    if part in ('backbone', 'neck') or is_known_two_stage(detector):
        return True
    if isinstance(detector, DetectionTransformer):
        return part == 'encoder'
    return isinstance(getattr(detector, part), BaseDenseHead)


def idle_detectors(model: nn.Module, task: CalibrationTask) -> list[str]:
    """Return the names of detectors inside `model` that no forward enters, such as the student beside its teacher.

    Runs the first image if there is a detector inside.
    """
    nested = {name: module for name, module in model.named_modules() if name and isinstance(module, BaseDetector)}
    if not nested:
        return []
    entered: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: entered.add(name))
        for name, detector in nested.items()
        for module in detector.modules()
    ]
    try:
        with torch.no_grad(), full_precision():
            task.forward(model, 0)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in nested if name not in entered]
