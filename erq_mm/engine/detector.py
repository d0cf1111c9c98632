"""Calibration images of a detector: its forward without post-processing, its own loss, and its dense predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.structures.bbox import bbox2roi
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from rich.progress import Progress
from torch import Tensor, nn

from ..calibration.task import CalibrationTask, Predictions
from .objectives import dense_divergence, detector_loss

RoIs = list[tuple[nn.Module, Tensor]]


@dataclass
class _Remembered:
    """What the first run of an image, through the float model, leaves for later ones.

    Attributes:
        boxes: (stage, regions of interest) of every call of a box head, in order.
        mask_rois: regions the mask heads are run on.
        detections: of the float model, in input coordinates; None unless labels were asked for.
    """

    boxes: list[tuple[int, Tensor]]
    mask_rois: Tensor | None
    detections: InstanceData | None


class DetectorTask(CalibrationTask):
    """Calibration images of one mmdet detector: what quantized layers see at test time, and nothing after them.

    The first run of an image, which must be of the float model, remembers its regions of interest; later runs send the
    same regions through the heads, so that rows of a float and of a quantized run belong together.

    Args:
        images: packed by the test pipeline.
        with_masks: also run the mask head (needed only if its convolutions are quantized), on the best boxes whatever
            their score, so that it sees rows on every image.
        progress: a started display, or None.
        with_labels: remember the float model's detections, which `loss` takes for ground truth.
    """

    def __init__(
        self, images: Sequence[dict[str, Any]], with_masks: bool, progress: Progress | None, with_labels: bool = False
    ) -> None:
        self.images, self.with_masks, self.progress, self.with_labels = list(images), with_masks, progress, with_labels
        self._remembered: dict[int, _Remembered] = {}

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> list[Any]:
        return [image['data_samples'].img_id for image in self.images]

    def offers(self, model: nn.Module) -> set[str]:
        if not _is_known_two_stage(model):
            return set()
        return {'loss', 'predictions'} if model.train_cfg is not None else {'predictions'}

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if no image gives a proposal: the box head would never be calibrated."""
        if _is_known_two_stage(model) and not any(
            len(rois) for seen in self._remembered.values() for _, rois in seen.boxes
        ):
            raise ValueError(
                f'calibration images {self.identity()} gave no proposals, so the box head cannot be calibrated; choose '
                'others with default_hooks.quantization.calibration.image_ids or another seed'
            )

    def forward(self, model: nn.Module, index: int) -> None:
        data = self._preprocess(model, index)
        if not _is_known_two_stage(model):
            model(**data, mode='predict')
        elif index in self._remembered:
            self._replay(model, data, self._remembered[index])
        else:
            self._remembered[index] = self._first_run(model, data)

    def loss(self, model: nn.Module, index: int) -> Tensor:
        remembered = self._remembered.get(index)
        if remembered is None or remembered.detections is None:
            raise RuntimeError(f'image {index} has no labels: run the float model first, with with_labels=True')
        return detector_loss(model, self._preprocess(model, index), remembered.detections, seed=index)

    def predict(self, model: nn.Module, index: int) -> Predictions:
        """Return the region proposal network's class scores of all levels, then its box deltas."""
        scores, deltas = model.rpn_head(model.extract_feat(self._preprocess(model, index)['inputs']))
        return (*scores, *deltas)

    def divergence(self, predictions: Predictions, reference: Predictions) -> Tensor:
        return dense_divergence(predictions, reference)

    def _preprocess(self, model: nn.Module, index: int) -> dict[str, Any]:
        return model.data_preprocessor(pseudo_collate([self.images[index]]), False)

    def _first_run(self, model: nn.Module, data: dict[str, Any]) -> _Remembered:
        head, samples = model.roi_head, data['data_samples']
        features = model.extract_feat(data['inputs'])
        proposals = model.rpn_head.predict(features, samples, rescale=False)
        if not head.with_bbox or not len(proposals[0].bboxes):
            return _Remembered([], None, InstanceData() if self.with_labels else None)
        config = head.test_cfg.copy()
        config.score_thr = 0.0 if self.with_masks else config.score_thr
        metas = [sample.metainfo for sample in samples]
        with _recorded_boxes(head) as boxes:
            results = head.predict_bbox(features, metas, proposals, config, rescale=False)
        mask_rois = bbox2roi([r.bboxes for r in results]) if self.with_masks and head.with_mask else None
        if not self.with_labels:
            _run_mask_heads(head, features, mask_rois)
            return _Remembered(boxes, mask_rois, None)
        if head.with_mask:  # runs the mask heads on the same regions
            results = head.predict_mask(features, metas, results, rescale=False)
        return _Remembered(boxes, mask_rois, results[0])

    def _replay(self, model: nn.Module, data: dict[str, Any], remembered: _Remembered) -> None:
        features = model.extract_feat(data['inputs'])
        model.rpn_head(features)
        head = model.roi_head
        for stage, rois in remembered.boxes:
            if isinstance(head, CascadeRoIHead):
                head._bbox_forward(stage, features, rois)
            else:
                head._bbox_forward(features, rois)
        _run_mask_heads(head, features, remembered.mask_rois)


def _is_known_two_stage(model: nn.Module) -> bool:
    known = type(getattr(model, 'roi_head', None)) in (StandardRoIHead, CascadeRoIHead)
    return isinstance(model, TwoStageDetector) and model.with_rpn and known


class _recorded_boxes:
    """Collect (stage, regions) of every call of the box heads' feature extractors while the block runs."""

    def __init__(self, head: nn.Module) -> None:
        extractors = head.bbox_roi_extractor
        self.extractors = list(extractors) if isinstance(extractors, nn.ModuleList) else [extractors]
        self.boxes: list[tuple[int, Tensor]] = []

    def __enter__(self) -> list[tuple[int, Tensor]]:
        self.handles = [
            extractor.register_forward_pre_hook(
                lambda _module, args, stage=stage: self.boxes.append((stage, args[1].clone()))
            )
            for stage, extractor in enumerate(self.extractors)
        ]
        return self.boxes

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def _run_mask_heads(head: nn.Module, features: tuple[Tensor, ...], rois: Tensor | None) -> None:
    if rois is None or not len(rois):
        return
    if isinstance(head, CascadeRoIHead):
        for stage in range(head.num_stages):
            head._mask_forward(stage, features, rois)
    else:
        head._mask_forward(features, rois)
