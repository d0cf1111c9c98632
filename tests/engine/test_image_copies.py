"""Altered copies of a packed image: how many, what changes with their size, and what has none."""

import pytest
import torch
from mmdet.structures import DetDataSample

from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.image_copies import altered_copies


def packed() -> dict[str, object]:
    sample = DetDataSample(
        metainfo=dict(img_id=7, img_shape=(40, 64), ori_shape=(80, 128), scale_factor=(0.5, 0.5), pad_shape=(40, 64))
    )
    return {'inputs': torch.randint(0, 256, (3, 40, 64), dtype=torch.uint8), 'data_samples': sample}


@pytest.mark.parametrize('count', [0, 1, 2, 7, 12])
def test_as_many_as_asked_for_all_different_and_the_same_for_the_same_seed(count: int) -> None:
    image = packed()
    copies = altered_copies(image, count, seed=3)
    assert len(copies) == count
    for copy, again in zip(copies, altered_copies(image, count, seed=3), strict=True):
        assert copy['inputs'].dtype == torch.uint8
        assert torch.equal(copy['inputs'], again['inputs'])
        assert copy['inputs'].shape != image['inputs'].shape or not torch.equal(copy['inputs'], image['inputs'])


def test_sizes_go_with_their_meta_data() -> None:
    image = packed()
    smaller, larger, same = altered_copies(image, 3, seed=0)
    assert smaller['inputs'].shape == (3, 30, 48) and larger['inputs'].shape == (3, 50, 80)
    assert smaller['data_samples'].img_shape == (30, 48) and smaller['data_samples'].scale_factor == (0.375, 0.375)
    assert same['data_samples'].img_shape == image['data_samples'].img_shape == (40, 64)
    assert altered_copies(image, 2, seed=0, with_scales=False)[0]['inputs'].shape == image['inputs'].shape


def test_colours_take_every_other_order_before_one_comes_again() -> None:
    image = packed()
    image['inputs'] = torch.tensor([10, 90, 240], dtype=torch.uint8)[:, None, None].expand(3, 8, 8).contiguous()
    copies = altered_copies(image, 5, seed=1, with_scales=False)
    ranks = [copy['inputs'][:, 0, 0].float() for copy in copies]
    ranks[3] = 255 - ranks[3]  # the inverted one
    orders = {tuple(rank.argsort().tolist()) for rank in ranks}
    assert len(orders) == 5 and (0, 1, 2) not in orders


def test_a_plain_copy_has_the_same_values_in_other_channels() -> None:
    image = packed()
    plain = altered_copies(image, 5, seed=2, with_scales=False)[1]['inputs']
    assert sorted(channel.sum().item() for channel in plain) == sorted(c.sum().item() for c in image['inputs'])
    assert not torch.equal(plain, image['inputs'])


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_other_numbers_of_channels(channels: int) -> None:
    image = packed() | {'inputs': torch.randint(0, 256, (channels, 8, 12), dtype=torch.uint8)}
    assert [len(copy['inputs']) for copy in altered_copies(image, 6, seed=0)] == [channels] * 6


def test_images_that_are_no_pixels_have_none() -> None:
    assert altered_copies(packed() | {'inputs': torch.rand(3, 8, 8)}, 5, seed=0) == []


def test_the_task_keeps_its_images_in_front() -> None:
    images = [packed(), packed()]
    task = DetectorTask(images, with_masks=True).with_copies(3, seed=0)
    assert len(task) == 8 and task.images[:2] == images and task.with_masks
