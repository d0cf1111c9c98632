"""RoIAlign as sums of table rows against mmcv's operator."""

import pytest
import torch
from mmcv.ops import RoIAlign
from torch import nn

from erq_mm.engine.roi_align import TableRoIAlign, speed_up_roi_align_
from erq_mm.nn import roi_align as module
from erq_mm.nn.roi_align import roi_align

SIZE = (2, 5, 23, 31)  # features; the image is four times as large


def random_rois(count: int) -> torch.Tensor:
    """Boxes of all sizes, many of them beyond the image on some side."""
    corner = torch.rand(count, 2) * torch.tensor([160.0, 130.0]) - 20
    extent = torch.rand(count, 2) ** 3 * 180
    return torch.cat([torch.randint(0, 2, (count, 1)).float(), corner, corner + extent], 1)


SPECIAL = torch.tensor([
    [0, 0, 0, 0, 0], [1, 10, 10, 10, 30], [0, 5, 7, 25, 7],  # of no extent
    [0, -300, -300, -200, -200], [1, 500, 500, 700, 600],  # outside
    [0, 0, 0, 124, 92], [1, -500, -500, 900, 900], [0, 2, 2, 6, 6],  # the image, more than it, one feature
    [1, 120, 88, 124, 92], [0, -4, -4, 4, 4], [0, 122, 0, 126, 92], [1, 60, 40, 60.5, 40.5],  # at the borders
    [0, 17.999998, 17.999998, 73.999998, 45.999998], [1, 5.9999995, 1.9999999, 61.9999995, 57.9999999],  # whole bins
], dtype=torch.float32)  # fmt: skip


@pytest.mark.parametrize('entries', [1, 3000, 2**19])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
@pytest.mark.parametrize('output_size', [7, 14, (1, 3)])
def test_equals_mmcv(output_size, sampling_ratio: int, aligned: bool, entries: int, monkeypatch) -> None:
    monkeypatch.setattr(module, 'BAG_ENTRIES', entries)
    reference = RoIAlign(output_size, 0.25, sampling_ratio, aligned=aligned)
    features, rois = torch.randn(SIZE), torch.cat([random_rois(60), SPECIAL])
    expected = reference(features, rois)
    arguments = (rois, reference.output_size, 0.25, sampling_ratio, aligned)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        ours = roi_align(features.contiguous(memory_format=memory_format), *arguments)
        assert float((ours - expected).abs().max()) < 1e-6 * float(features.abs().max()) * 2


def test_bins_longer_than_the_sampling_ratio_skip_features() -> None:
    """One sample in the middle of a bin of ten features: two by hand, (4.5 + 5.5) / 2 apart."""
    features = torch.arange(12.0).expand(1, 1, 12, 12)
    pooled = roi_align(features, torch.tensor([[0.0, 0.5, 0.5, 10.5, 10.5]]), (1, 1), 1.0, sampling_ratio=1)
    assert pooled.item() == 5.0


def test_negative_extents_give_zeros_where_mmcv_ends_with_an_error() -> None:
    assert not roi_align(torch.ones(1, 2, 9, 9), torch.tensor([[0.0, 8, 8, 4, 4]]), (7, 7), 1.0).any()


@pytest.mark.parametrize('shape', [(1, 4, 9, 9), (0, 4, 9, 9), (1, 4, 0, 9)])
def test_no_regions(shape: tuple[int, ...]) -> None:
    assert roi_align(torch.ones(shape), torch.zeros(0, 5), (7, 3), 0.25).shape == (0, 4, 7, 3)


def test_modules_are_replaced_in_place_and_only_those_that_average() -> None:
    model = nn.ModuleDict({'a': RoIAlign(7, 0.25), 'b': RoIAlign(7, 0.25, pool_mode='max'), 'c': RoIAlign(7, 0.5)})
    model['d'] = model['a']
    model['c'].register_forward_hook(lambda *_: None)
    assert speed_up_roi_align_(model) == ['a']
    assert [type(m) for m in model.values()] == [TableRoIAlign, RoIAlign, RoIAlign, TableRoIAlign]
    assert model['a'] is model['d'] and model['a'].output_size == (7, 7)
    features, rois = torch.randn(SIZE), random_rois(9)
    torch.testing.assert_close(model['a'](features, rois), RoIAlign(7, 0.25)(features, rois), rtol=1e-5, atol=2e-6)


def test_gradients_and_other_types_go_through_mmcv() -> None:
    model = nn.Sequential(RoIAlign(7, 0.25))
    speed_up_roi_align_(model)
    features = torch.randn(SIZE).contiguous(memory_format=torch.channels_last).requires_grad_()
    pooled = model[0](features, random_rois(3))
    pooled.sum().backward()
    assert features.grad.abs().sum() > 0
    doubled = model[0](features.detach().double(), random_rois(3).double())
    assert doubled.dtype == torch.float64
