"""Top-k accuracy for any number of classes."""

from typing import Any

from mmengine.registry import METRICS
from mmpretrain.evaluation import Accuracy


@METRICS.register_module()
class TopKAccuracy(Accuracy):
    """Share of images, in percent, whose class is among the k best: `accuracy/top1`, `accuracy/top5`.

    Every k that is not smaller than the number of classes would be 100 and is left out.

    Args:
        topk: the k.
    """

    def __init__(self, topk: tuple[int, ...] = (1, 5), **settings: Any) -> None:
        super().__init__(topk=topk, **settings)
        self.wanted = self.topk

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Return percent by `topK`."""
        classes = len(results[0]['pred_score'])
        self.topk = tuple(k for k in self.wanted if k < classes) or (1,)
        return super().compute_metrics(results)
