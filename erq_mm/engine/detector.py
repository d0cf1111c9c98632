"""The calibration forward of a detector: what quantized layers see at test time, and nothing after them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.structures.bbox import bbox2roi
from mmengine.dataset import pseudo_collate
from rich.progress import Progress
from torch import nn

from ..calibration.progress import track


def calibration_forward(
    images: Sequence[dict[str, Any]], with_masks: bool, progress: Progress | None
) -> Callable[[nn.Module], None]:
    """Return the function that runs all calibration images through a detector, one at a time.

    Args:
        images: packed by the test pipeline.
        with_masks: also run the mask head (needed only if its convolutions are quantized), on the best boxes whatever
            their score, so that it sees rows on every image.

    The returned function raises ValueError if no image gives a proposal: the box head would never be calibrated.
    """

    def run(model: nn.Module) -> None:
        proposals = 0
        for image in track(progress, images, 'calibration images'):
            proposals += _forward(model, image, with_masks)
        if proposals == 0:
            ids = [image['data_samples'].img_id for image in images]
            raise ValueError(
                f'calibration images {ids} gave no proposals, so the box head cannot be calibrated; choose others with '
                'default_hooks.quantization.calibration.image_ids or another seed'
            )

    return run


def _forward(model: nn.Module, image: dict[str, Any], with_masks: bool) -> int:
    """Run one image; return its number of proposals (1 for detectors that have none)."""
    data = model.data_preprocessor(pseudo_collate([image]), False)
    known = type(getattr(model, 'roi_head', None)) in (StandardRoIHead, CascadeRoIHead)
    if not (isinstance(model, TwoStageDetector) and model.with_rpn and known):
        model(**data, mode='predict')
        return 1
    samples = data['data_samples']
    features = model.extract_feat(data['inputs'])
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    head = model.roi_head
    if head.with_bbox and sum(len(p.bboxes) for p in proposals):
        config = head.test_cfg.copy()
        config.score_thr = 0.0 if with_masks else config.score_thr
        metas = [sample.metainfo for sample in samples]
        results = head.predict_bbox(features, metas, proposals, config, rescale=False)
        if with_masks and head.with_mask:
            _run_mask_heads(head, features, bbox2roi([r.bboxes for r in results]))
    return sum(len(p.bboxes) for p in proposals)


def _run_mask_heads(head: nn.Module, features: tuple[torch.Tensor, ...], rois: torch.Tensor) -> None:
    if not len(rois):
        return
    if isinstance(head, CascadeRoIHead):
        for stage in range(head.num_stages):
            head._mask_forward(stage, features, rois)
    else:
        head._mask_forward(features, rois)
