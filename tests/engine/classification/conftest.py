"""A tiny ViT of timm's on generated images of four classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

REASON = 'classifiers need the extra `timm`'
pytest.importorskip('timm', reason=REASON)
pytest.importorskip('mmpretrain', reason=REASON)

from ...conftest import ROOT  # noqa: E402

NAME = 'vit_tiny_patch16_224'
OPTIONS = dict(img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2, num_classes=4)
CLASSES = ('ant', 'bee', 'cat', 'dog')


def write_images(root: Path, count: int = 3) -> None:
    """Write train and val with a folder per class; images are a class's colour with noise, sizes differ."""
    for split, shift in (('train', 0), ('val', 100)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng(shift + 10 * label + i)
                noise = rng.normal(60 * label + 30, 40, (36 + 4 * i, 50 - 3 * i, 3))
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / split / name / f'{i}.png')


@pytest.fixture(scope='session')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train` and `val`, 12 images each."""
    root = tmp_path_factory.mktemp('images')
    write_images(root)
    return root


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as timm writes it: names of timm's own model."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'timm.pth'
    torch.save(timm.create_model(NAME, **OPTIONS).state_dict(), path)
    return path


@pytest.fixture
def write_config(images: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a config on the images; its arguments are fields of the model, and a root."""

    def write(root: Path = images, **model: Any) -> str:
        path = tmp_path / 'tiny.py'
        path.write_text(f"""
_base_ = '{ROOT}/configs/_base_/imagenet.py'
model = dict(**{dict(model_name=NAME) | OPTIONS | model})
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name='{NAME}', img_size=32),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root='{root}'))
val_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, type='ImageFolder', data_root='{root}', data_prefix='val', pipeline=pipeline),
)
test_dataloader = val_dataloader
""")
        return str(path)

    return write


@pytest.fixture
def make_runner(write_config: Callable[..., str], checkpoint: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that builds the runner of a command line of tools/test.py."""
    from erq_mm.engine.evaluation import build_parser, build_runner

    def make(*arguments: str, config: str | None = None, weights: Path = checkpoint) -> Any:
        line = [config or write_config(), str(weights), '--work-dir', str(tmp_path / 'work'), *arguments]
        return build_runner(build_parser().parse_args(line))

    return make


def scores(runner: Any) -> torch.Tensor:
    """Run the evaluation; return the scores of all images, (images, classes)."""
    from mmengine.hooks import Hook

    found: list[torch.Tensor] = []

    class Keep(Hook):
        def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            found.extend(sample.pred_score for sample in outputs)

    runner.register_hook(Keep())
    runner.test()
    return torch.stack(found)
