"""Calibration images of a classifier: its own full forward, and the terms of the papers. Labels are never looked at."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ...calibration.task import Predictions, logit_divergence
from ..model_kinds import ImageTask


class ClassificationTask(ImageTask):
    """Calibration images of an mmpretrain classifier, one at a time through its own `test_step`.

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

    def forward(self, model: nn.Module, index: int) -> None:
        (sample,) = model.test_step(self._batch(index))
        self._classes.setdefault(index, sample.pred_score.detach().argmax(-1, keepdim=True))

    def loss(self, model: nn.Module, index: int) -> Tensor:
        (logits,) = self.predict(model, index)
        return F.cross_entropy(logits, self._classes.setdefault(index, logits.detach().argmax(-1)))

    def predict(self, model: nn.Module, index: int) -> Predictions:
        """Return the logits, (1, classes)."""
        return (model(model.data_preprocessor(self._batch(index), False)['inputs'], mode='tensor'),)

    def divergence(self, predictions: Predictions, reference: Predictions) -> Tensor:
        return logit_divergence(predictions[0], reference[0])

    def _batch(self, index: int) -> dict[str, Any]:
        """Return a batch of one image whose sample is a copy: predictions must not pile up in the stored ones."""
        image = self.images[index]
        return pseudo_collate([image | {'data_samples': image['data_samples'].clone()}])
