"""The demo detector on a few generated images, through tools/test.py's own code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ROOT

CONFIG = str(ROOT / 'configs/shapes/mask-rcnn_swin-mini_shapes.py')
CHECKPOINT = str(ROOT / 'configs/shapes/checkpoints/mask-rcnn_swin-mini.pth')


@pytest.fixture
def mmdet_scope() -> None:
    """Let names be found in mmdet, as a runner does."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configs of two sets whose ids overlap: a has 1 to 4, b has 4 to 6."""
    from .small_sets import write_set

    return write_set(tmp_path, 'a', [1, 2, 3, 4]), write_set(tmp_path, 'b', [4, 5, 6])


@pytest.fixture
def data_options(tiny_shapes: Path) -> list[str]:
    """--cfg-options that point the demo config to the tiny set."""
    root = f'{tiny_shapes}/'
    return [
        *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
        *(f'{split}_dataloader.num_workers=0' for split in ('val', 'test')),
        *(f'{split}_dataloader.persistent_workers=False' for split in ('val', 'test')),
        f'test_evaluator.ann_file={root}annotations/instances_val.json',
        f'val_evaluator.ann_file={root}annotations/instances_val.json',
    ]


@pytest.fixture
def make_runner(data_options: list[str], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that builds the runner of a command line."""
    from erq_mm.engine.evaluation import build_parser, build_runner

    def make(*arguments: str, options: tuple[str, ...] = (), checkpoint: str = CHECKPOINT, config: str = CONFIG) -> Any:
        line = [config, checkpoint, '--work-dir', str(tmp_path / 'work'), *arguments]
        return build_runner(build_parser().parse_args([*line, '--cfg-options', *data_options, *options]))

    return make


@pytest.fixture
def read_report(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """Return a function that reads the only report of the work folder."""

    def read() -> dict[str, Any]:
        (path,) = (tmp_path / 'work').glob('*/quantization.json')
        return json.loads(path.read_text())

    return read
