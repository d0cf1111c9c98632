"""The levels of a model's data preprocessor are those of the images that it gives: grey, BGR, RGB, padded."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor, MultiBranchDataPreprocessor
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from erq_mm.core.pixel_levels import PixelLevels
from erq_mm.engine.normalisation import levels_of

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SETTINGS: dict[str, dict[str, Any]] = {
    'RGB of BGR images': dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32),
    'BGR': dict(mean=MEAN[::-1], std=[1.0, 1.0, 1.0], pad_size_divisor=32),
    'one number for all': dict(mean=[127.5], std=[127.5]),
    'as they are': dict(),
}


def preprocessed(preprocessor: nn.Module, channels: int = 3, shift: float = 0.0) -> Tensor:
    """Return what the model gets of two images of different sizes."""
    sizes = ((20, 30), (24, 17))
    images = [torch.randint(0, 256, (channels, *size)) for size in sizes]
    images = [image + shift if shift else image.to(torch.uint8) for image in images]
    samples = [DetDataSample(metainfo=dict(img_shape=size)) for size in sizes]
    return preprocessor(dict(inputs=images, data_samples=samples), False)['inputs']


@pytest.mark.parametrize('settings', SETTINGS.values(), ids=SETTINGS)
def test_images_lie_on_the_levels(settings: dict[str, Any]) -> None:
    preprocessor = DetDataPreprocessor(**settings)
    levels = levels_of(SimpleNamespace(data_preprocessor=preprocessor))
    assert levels.why_not(preprocessed(preprocessor)) is None
    assert 'beside integer pixels' in levels.why_not(preprocessed(preprocessor, shift=0.4))


def test_grey_images() -> None:
    preprocessor = DetDataPreprocessor(mean=[33.3], std=[78.6])
    levels = levels_of(SimpleNamespace(data_preprocessor=preprocessor))
    assert levels.why_not(preprocessed(preprocessor, channels=1)) is None


def test_several_branches_share_one_preprocessor() -> None:
    inner = dict(type='mmdet.DetDataPreprocessor', **SETTINGS['RGB of BGR images'])
    levels = levels_of(SimpleNamespace(data_preprocessor=MultiBranchDataPreprocessor(inner)))
    torch.testing.assert_close(torch.tensor(levels.mean), torch.tensor(MEAN))


def test_what_is_no_normalisation_has_no_levels() -> None:
    assert levels_of(nn.Linear(1, 1)) is None
    assert levels_of(SimpleNamespace(data_preprocessor=SimpleNamespace(mean=[1.0], std=[2.0]))) is None
    negative = SimpleNamespace(mean=torch.zeros(3), std=torch.tensor([1.0, -1.0, 1.0]))
    assert levels_of(SimpleNamespace(data_preprocessor=negative)) is None
    assert levels_of(SimpleNamespace(data_preprocessor=nn.Identity())) == PixelLevels((0.0,), (1.0,))
