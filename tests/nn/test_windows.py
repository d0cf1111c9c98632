"""Windows against a slow reference: every token by its place in the image."""

import itertools

import pytest
import torch
from torch import Tensor

from erq_mm.nn.windows import merge, pad_to_windows, partition, region_numbers


def slow_partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    images, height, width, _ = x.shape
    down, across = window
    corners = itertools.product(range(images), range(0, height, down), range(0, width, across))
    return torch.stack([x[i, row : row + down, column : column + across].flatten(0, 1) for i, row, column in corners])


@pytest.mark.parametrize('window', [(2, 3), (4, 4), (1, 6)])
def test_partition_and_merge(window: tuple[int, int]) -> None:
    x = torch.randn(2, 8, 12, 5)
    windows = partition(x, window)
    assert torch.equal(windows, slow_partition(x, window))
    assert torch.equal(merge(windows, window, x.shape), x)


@pytest.mark.parametrize('size', [(7, 9), (8, 9), (8, 12)])
def test_padding_is_below_and_on_the_right(size: tuple[int, int]) -> None:
    x, value = torch.randn(2, *size, 3), torch.tensor([1.0, 2.0, 3.0])
    padded = pad_to_windows(x, (4, 3), value)
    assert padded.shape == (2, 8, -(-size[1] // 3) * 3, 3)
    assert torch.equal(padded[:, : size[0], : size[1]], x)
    rest = torch.ones(padded.shape[1:3], dtype=torch.bool)
    rest[: size[0], : size[1]] = False
    assert bool((padded[:, rest] == value).all())


@pytest.mark.parametrize(('window', 'shift'), [((4, 3), (2, 1)), ((4, 6), (2, 0)), ((8, 3), (0, 2))])
def test_tokens_of_one_region_were_neighbours_before_the_shift(window: tuple[int, int], shift: tuple[int, int]) -> None:
    """Two tokens of a window may see each other if no edge of the image lies between them."""
    height, width = 8, 12
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij'), -1)
    before = partition(torch.roll(places, (-shift[0], -shift[1]), (0, 1))[None], window)
    regions = region_numbers(height, width, window, shift, torch.device('cpu'))
    apart = (before[:, :, None] - before[:, None, :]).abs()
    neighbours = (apart < torch.tensor(window)).all(-1)
    assert torch.equal(regions[:, :, None] == regions[:, None, :], neighbours)
