"""A small mmdet Swin with a linear classifier: blocks for reconstruction, logits for a loss and predictions."""

import torch
from torch import Tensor, nn

import erq_mm

from ..nn.swin import make_swin


class SwinClassifier(nn.Module):
    """Images (n, 3, H, W) -> logits (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = make_swin(), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def make_classifier() -> tuple[SwinClassifier, erq_mm.ClassifierTask]:
    """Return the model, in eval mode, and a task of three images."""
    model = SwinClassifier()
    model.train(False)
    return model, erq_mm.ClassifierTask([torch.randn(1, 3, 60, 52) for _ in range(3)])
