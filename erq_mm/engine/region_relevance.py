"""How much counts what a box head makes of a region of interest.

What it makes of the background is thrown away but for its score. Of all regions that show one object a single one is
left by non-maximum suppression, that of the best score, and nobody sees the boxes of the others.
"""

from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn

FLOOR = 0.2  # what the background counts, next to 1 for an object
DECAY = 0.7  # of what a region counts, for every other one that shows the same and has a better score
SAME_BOX = 0.5  # boxes that overlap (IoU) by more than this show the same object


def relevance(foreground: Tensor, rivals: Tensor | None = None) -> Tensor:
    """Return what errors of regions count, (n,).

    Args:
        foreground: probability that a region shows an object of any class, (n,).
        rivals: of `count_rivals`; None where nobody has one.
    """
    return (foreground if rivals is None else foreground * DECAY**rivals) + FLOOR


def class_probabilities(head: nn.Module, scores: Tensor) -> Tensor:
    """Return probabilities of all classes and, last, the background, (n, classes + 1), by mmdet's own rule."""
    found = head.loss_cls.get_activation(scores) if head.custom_cls_channels else scores.softmax(-1)
    return found.detach()


def count_rivals(head: nn.Module, rois: Tensor, probabilities: Tensor, deltas: Tensor | None) -> Tensor:
    """Return how many other regions of the same image show the same object and have a better score, (n,).

    They show the same if the classes they most probably show are the same, and the boxes that the head makes of them
    overlap. Of heads whose outputs are not the deltas of mmdet's `BBoxHead` nothing is known, and nobody has a rival.

    Args:
        rois: regions, (n, 5), the number of the image first.
        probabilities: (n, classes + 1), the background last.
        deltas: as the head gives them, (n, 4) or (n, 4 classes).
    """
    scores, labels = probabilities[:, :-1].max(1)
    boxes = _boxes(head, rois, labels, deltas)
    if boxes is None:
        return scores.new_zeros(len(scores))
    is_rival = bbox_overlaps(boxes, boxes) > SAME_BOX
    is_rival &= (labels[:, None] == labels) & (rois[:, :1] == rois[:, 0]) & (scores[:, None] < scores)
    return is_rival.sum(1).to(scores.dtype)


def _boxes(head: nn.Module, rois: Tensor, labels: Tensor, deltas: Tensor | None) -> Tensor | None:
    """Return the boxes of the classes `labels`, (n, 4), or None where the deltas cannot be read."""
    if not isinstance(head, BBoxHead) or deltas is None or not len(rois):
        return None
    kinds = 1 if head.reg_class_agnostic else head.num_classes
    if deltas.shape != (len(rois), 4 * kinds):
        return None
    return head.regress_by_class(rois[:, 1:], labels, deltas.detach(), {'img_shape': None})  # not clipped
