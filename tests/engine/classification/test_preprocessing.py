"""Images reach the model as timm itself would prepare them, whatever kind of file they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from PIL import Image
from timm import get_pretrained_cfg
from timm.data import create_transform, resolve_data_config

import erq_mm.engine.classification  # noqa: F401  registers the transforms
from erq_mm.engine.classification.data_config import data_config, normalisation

PAPER = [
    'vit_small_patch16_224',
    'vit_base_patch16_224',
    'deit_tiny_patch16_224',
    'deit_small_patch16_224',
    'deit_base_patch16_224',
    'swin_small_patch4_window7_224',
    'swin_base_patch4_window7_224',
]
OTHERS = ['deit3_small_patch16_224', 'vit_small_patch14_dinov2', 'resnet18.tv_in1k', 'beit_base_patch16_224']


def picture(mode: str, size: tuple[int, int], path: Path) -> Path:
    """Write noise as a file of a mode of Pillow's."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), 'RGBA')
    image = image.convert('RGB').convert(mode) if mode not in ('RGBA', 'LA') else image.convert(mode)
    image.save(path)
    return path


def prepared(name: str, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image (1, 3, height, width) through a config's pipeline and preprocessor, and through timm."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        steps = (dict(type='LoadRGBImage'), dict(type='TimmPreprocess', model_name=name), dict(type='PackInputs'))
        packed = {'img_path': str(path)}
        for step in steps:
            packed = TRANSFORMS.build(step)(packed)
        ours = MODELS.build(normalisation(name))({'inputs': [packed['inputs']], 'data_samples': None})['inputs']
    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    return ours, create_transform(**config)(Image.open(path).convert('RGB'))[None]


def assert_equal_pixels(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    """Equal as 8-bit integers, and as normalised floats to rounding errors."""
    assert ours.shape == theirs.shape
    mean, std = (torch.tensor(data_config(name)[key]).view(3, 1, 1) for key in ('mean', 'std'))
    levels = [((x * std + mean) * 255).round() for x in (ours, theirs)]
    assert torch.equal(*levels)
    assert float((ours - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize('name', PAPER + OTHERS)
def test_pixels_are_timms(name: str, tmp_path: Path) -> None:
    path = picture('RGB', (301, 259), tmp_path / 'image.png')
    assert_equal_pixels(*prepared(name, path), name)


def test_the_values_differ_between_models() -> None:
    """The table is not vacuous: crop shares, interpolations, means and sizes of all kinds occur in it."""
    found = [data_config(name) for name in PAPER + OTHERS]
    assert {c['crop_pct'] for c in found} >= {0.875, 0.9, 1.0}
    assert {c['interpolation'] for c in found} == {'bicubic', 'bilinear'}
    assert len({c['mean'] for c in found}) == 2 and len({c['input_size'] for c in found}) == 2


@pytest.mark.parametrize(
    'mode, suffix',
    [('L', 'png'), ('RGBA', 'png'), ('LA', 'png'), ('P', 'png'), ('1', 'png'), ('CMYK', 'jpg'), ('L', 'jpg')],
)
@pytest.mark.parametrize('size', [(37, 401), (9, 7)])
def test_any_file_becomes_rgb(mode: str, suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = picture(mode, size, tmp_path / f'image.{suffix}')
    with Image.open(path) as image:
        assert image.mode == mode
    assert_equal_pixels(*prepared('deit_small_patch16_224', path), 'deit_small_patch16_224')


def test_values_can_be_changed() -> None:
    changed = data_config('deit_small_patch16_224', img_size=32, crop_pct=1.0, interpolation='bilinear')
    assert (changed['input_size'], changed['crop_pct'], changed['interpolation']) == ((3, 32, 32), 1.0, 'bilinear')
    with pytest.raises(ValueError, match=r"has no \['crop'\]; what can be changed is .*crop_pct"):
        data_config('deit_small_patch16_224', crop=1.0)


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n' + bytes(64), None])
def test_an_image_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / 'bad.png'
    if content is None:  # cut off
        content = picture('RGB', (40, 40), path).read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'bad.png \({len(content)} bytes\) cannot be read as an image'):
        TRANSFORMS.build(dict(type='LoadRGBImage'))({'img_path': str(path)})
    with pytest.raises(FileNotFoundError, match='missing.png'):
        TRANSFORMS.build(dict(type='LoadRGBImage'))({'img_path': str(tmp_path / 'missing.png')})
