"""A really pretrained ViT-S: gains of 0.2 to 7.5, outlier channels and tokens of huge norm, unlike any trained here."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import erq_mm

from ..conftest import DATA
from ..nn.timm_models import timm

WEIGHTS = DATA / 'dinov2_vits14' / 'vit_small_patch14_dinov2.safetensors'
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f'the pretrained weights are not there: {WEIGHTS.name}')


@pytest.fixture(scope='module')
def vit() -> nn.Module:
    options = dict(img_size=224, pretrained=True, pretrained_cfg_overlay=dict(file=str(WEIGHTS)))
    return timm.create_model('vit_small_patch14_dinov2', **options).eval()


def read(path: Path) -> Tensor:
    """Return an image as the network wants it, (1, 3, 224, 224)."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB').resize((224, 224), Image.Resampling.BICUBIC))
    mean, deviation = (torch.tensor(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((torch.from_numpy(pixels.copy()) / 255 - mean) / deviation).permute(2, 0, 1)[None]


@torch.no_grad()
def test_float_features(vit: nn.Module, coco_fixture: Path) -> None:
    features = vit(read(coco_fixture / 'val2017' / '000000349184.jpg'))
    assert float(features.norm()) == pytest.approx(39.43, abs=0.01)
    torch.testing.assert_close(features[0, :4], torch.tensor([-2.266, 0.882, 0.108, -1.345]), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_eight_bits_keep_the_features_of_other_images(vit: nn.Module, coco_subset: Path) -> None:
    calibration = torch.cat([read(path) for path in sorted((coco_subset / 'train2017').iterdir())[:8]]).split(4)
    others = torch.cat([read(path) for path in sorted((coco_subset / 'val2017').iterdir())[:8]])
    model = copy.deepcopy(vit)
    report = erq_mm.quantize_(model, erq_mm.ClassifierTask(calibration), 'erq', 8, 8)
    assert report.checks['same_function']['reparameterization']['largest_difference'] < 1e-5
    with torch.no_grad():
        found, wanted = model(others), vit(others)
    assert float(F.cosine_similarity(found, wanted).mean()) >= 0.99
