"""Scalars that say how good a detector's outputs are, without labels: the float model's own outputs are the target."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

LABEL_SCORE = 0.3  # detections above it are taken for ground truth; the best one always is
OBJECT_SCORE = 0.7  # box deltas count where the float model is this sure of an object (APHQ-ViT's detection code)


def detector_loss(model: nn.Module, data: dict[str, Any], detections: InstanceData, seed: int) -> Tensor:
    """Return the sum of the detector's training losses against `detections`, a scalar with gradients.

    The model stays in eval mode; the sampling of regions depends on `seed` alone.

    Args:
        data: a preprocessed batch of one image.
        detections: bboxes (n, 4) in input coordinates, labels, scores, and masks where the model predicts them.
    """
    (sample,) = data['data_samples']
    sample = sample.clone()
    sample.gt_instances = _ground_truth(detections, data['inputs'].shape[-2:], data['inputs'].device)
    sample.ignored_instances = InstanceData(
        bboxes=sample.gt_instances.bboxes.new_zeros(0, 4), labels=sample.gt_instances.labels.new_zeros(0)
    )
    with _seeded(seed, data['inputs'].device):
        losses = model.loss(data['inputs'], [sample])
    return model.parse_losses(losses)[0]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed NumPy, the CPU and one GPU while the block runs; the user's random numbers go on as if it had not.

    Others are left alone, which `torch.manual_seed` would not do: it seeds every GPU.
    """
    gpus = [device] if device.type == 'cuda' else []
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu.index].manual_seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)


def _ground_truth(detections: InstanceData, size: tuple[int, int], device: torch.device) -> InstanceData:
    if not len(detections):
        return InstanceData(
            bboxes=torch.zeros(0, 4, device=device),
            labels=torch.zeros(0, dtype=torch.long, device=device),
            masks=BitmapMasks(np.zeros((0, *size), np.uint8), *size),
        )
    threshold = min(LABEL_SCORE, float(detections.scores.max()))
    kept = detections[detections.scores >= threshold]
    truth = InstanceData(bboxes=kept.bboxes.detach().clone(), labels=kept.labels.clone())
    if 'masks' in kept:
        masks = np.zeros((len(kept), *size), np.uint8)
        found = kept.masks.cpu().numpy()
        masks[:, : found.shape[1], : found.shape[2]] = found[:, : size[0], : size[1]]
        truth.masks = BitmapMasks(masks, *size)
    return truth


def dense_divergence(predictions: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> Tensor:
    """Return how far a region proposal network's outputs are from the float model's (APHQ-ViT, detection code).

    Binary KL divergence of the class scores, plus smooth L1 of the box deltas where the float score exceeds 0.7, each a
    mean over anchors, summed over levels.

    Args:
        predictions, reference: class scores (1, A, H, W) of all levels, then box deltas (1, 4 A, H, W).
    """
    levels = len(reference) // 2
    total = reference[0].new_zeros(())
    for level in range(levels):
        logits, wanted = predictions[level], reference[level].detach()
        probability = wanted.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(wanted, probability)
        total = total + F.binary_cross_entropy_with_logits(logits, probability) - entropy
        sure = (probability > OBJECT_SCORE).repeat_interleave(4, dim=1)
        if bool(sure.any()):
            deltas, wanted_deltas = predictions[levels + level], reference[levels + level].detach()
            total = total + F.smooth_l1_loss(deltas[sure], wanted_deltas[sure])
    return total
