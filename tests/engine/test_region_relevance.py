"""Which regions have rivals: by hand, against a slow reference, and for heads of which nothing is known."""

import pytest
import torch
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn

from erq_mm.engine.region_relevance import SAME_BOX, class_probabilities, count_rivals

ROIS = torch.tensor(
    [
        [0, 10.0, 10, 50, 50],
        [0, 12.0, 10, 52, 50],
        [0, 11.0, 11, 51, 51],
        [0, 100.0, 100, 140, 140],
        [1, 10.0, 10, 50, 50],
    ]
)


def make(agnostic: bool, classes: int = 2) -> nn.Module:
    return Shared2FCBBoxHead(
        in_channels=1, fc_out_channels=4, roi_feat_size=1, num_classes=classes, reg_class_agnostic=agnostic
    )


def two_classes(*scores: float) -> Tensor:
    """Return probabilities of the first class, the rest for the second one and the background."""
    first = torch.tensor(scores)
    return torch.stack([first, (1 - first) / 4, (1 - first) * 3 / 4], 1)


@pytest.mark.parametrize('agnostic', [False, True])
def test_rivals_by_hand(agnostic: bool) -> None:
    head = make(agnostic)
    deltas = torch.zeros(5, 4 if agnostic else 8)  # boxes are the regions
    count = count_rivals(head, ROIS, two_classes(0.5, 0.9, 0.7, 0.6, 0.4), deltas)
    assert count.tolist() == [2, 0, 1, 0, 0]  # the last two lie elsewhere, and in another image


def test_other_classes_are_no_rivals_nor_are_equal_scores() -> None:
    probabilities = torch.tensor([[0.6, 0.1, 0.3], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.5, 0.2, 0.3], [0.5, 0.2, 0.3]])
    assert count_rivals(make(False), ROIS, probabilities, torch.zeros(5, 8)).tolist() == [0] * 5


def test_boxes_are_those_of_the_class_that_is_shown() -> None:
    deltas = torch.zeros(5, 8)
    deltas[1, 0], deltas[2, 4] = 50.0, 50.0  # of the first class, far away; of the second one, which nobody sees
    assert count_rivals(make(False), ROIS, two_classes(0.5, 0.9, 0.7, 0.6, 0.4), deltas).tolist() == [1, 0, 0, 0, 0]


def test_against_a_slow_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = 60 * torch.rand(80, 2, generator=generator)
    rois = torch.cat(
        [torch.arange(80)[:, None] % 2, corners, corners + 20 + 20 * torch.rand(80, 2, generator=generator)], 1
    )
    probabilities = (3 * torch.randn(80, 4, generator=generator)).softmax(1)
    deltas, head = torch.randn(80, 12, generator=generator), make(False, classes=3)
    labels = probabilities[:, :3].argmax(1).tolist()
    boxes = torch.cat(
        [
            head.bbox_coder.decode(rois[i : i + 1, 1:], deltas[i : i + 1, 4 * c : 4 * c + 4])
            for i, c in enumerate(labels)
        ]
    )
    wanted = [
        sum(
            labels[i] == labels[j]
            and int(rois[i, 0]) == int(rois[j, 0])
            and float(probabilities[j, :3].max()) > float(probabilities[i, :3].max())
            and float(bbox_overlaps(boxes[i : i + 1], boxes[j : j + 1])) > SAME_BOX
            for j in range(80)
        )
        for i in range(80)
    ]
    assert max(wanted) > 1
    assert count_rivals(head, rois, probabilities, deltas).tolist() == wanted


def test_nobody_has_a_rival_where_deltas_cannot_be_read() -> None:
    probabilities = two_classes(0.5, 0.9, 0.7, 0.6, 0.4)
    for head, deltas in ((make(False), None), (make(False), torch.zeros(5, 6)), (nn.Identity(), torch.zeros(5, 8))):
        assert count_rivals(head, ROIS, probabilities, deltas).tolist() == [0] * 5


def test_no_regions_and_scores_that_are_no_numbers() -> None:
    assert count_rivals(make(False), ROIS[:0], torch.zeros(0, 3), torch.zeros(0, 8)).shape == (0,)
    probabilities = two_classes(0.5, float('nan'), 0.7, 0.6, 0.4)
    assert count_rivals(make(False), ROIS, probabilities, torch.zeros(5, 8)).tolist() == [1, 0, 0, 0, 0]


def test_probabilities_are_those_of_the_prediction() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5]])
    torch.testing.assert_close(class_probabilities(make(False), scores), scores.softmax(1))
