"""Calibration images of a classifier: its own full forward, and the terms of the papers. Labels are never looked at."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ...calibration.task import Predictions, logit_divergence
from ..model_kinds import ImageTask

BATCH_PIXELS = 8 * 224 * 224  # larger batches are no faster on CPUs, and their activations take memory


class ClassificationTask(ImageTask):
    """Calibration images of an mmpretrain classifier, through its own `test_step`.

    Plain forwards take several images at once where all have the same size.

    The loss is the cross-entropy against the class that the float model predicts; the divergence is that of the
    logits' distributions, KL(float || quantized), as in PTQ4ViT and its successors.

    Args:
        images: packed by the test pipeline.
    """

    def __init__(self, images: Sequence[dict[str, Any]]) -> None:
        self.images = list(images)
        self._classes: dict[int, Tensor] = {}  # that the float model predicts, by image

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> list[Any]:
        return [image['data_samples'].img_id for image in self.images]

    def groups(self) -> list[list[int]]:
        sizes = {image['inputs'].shape for image in self.images}
        height, width = self.images[0]['inputs'].shape[-2:]
        step = max(BATCH_PIXELS // (height * width), 1) if len(sizes) == 1 else 1
        later = list(range(1, len(self)))
        return [[0], *(later[start : start + step] for start in range(0, len(later), step))]

    def forward(self, model: nn.Module, index: int) -> None:
        self.forward_group(model, [index])

    def forward_group(self, model: nn.Module, indices: Sequence[int]) -> None:
        samples = model.test_step(self._batch(indices))
        for index, sample in zip(indices, samples, strict=True):
            self._classes.setdefault(index, sample.pred_score.detach().argmax(-1, keepdim=True))

    def loss(self, model: nn.Module, index: int) -> Tensor:
        (logits,) = self.predict(model, index)
        return F.cross_entropy(logits, self._classes.setdefault(index, logits.detach().argmax(-1)))

    def predict(self, model: nn.Module, index: int) -> Predictions:
        """Return the logits, (1, classes)."""
        return (model(model.data_preprocessor(self._batch([index]), False)['inputs'], mode='tensor'),)

    def divergence(self, predictions: Predictions, reference: Predictions) -> Tensor:
        return logit_divergence(predictions[0], reference[0])

    def _batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch whose samples are copies: predictions must not pile up in the stored ones."""
        images = (self.images[index] for index in indices)
        return pseudo_collate([image | {'data_samples': image['data_samples'].clone()} for image in images])
