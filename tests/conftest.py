"""Fixtures shared by all tests: real COCO images where they are present, and a small generated set."""

import socket
from pathlib import Path

import pytest
import torch

from erq_mm.torchvision_schemas import declare_missing_operators

declare_missing_operators()  # timm and mmpretrain import torchvision, in tests that do not import the engine too

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / 'shared' / 'data'


def free_port() -> int:
    """Return a port that no process listens on: tests run beside each other."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def coco_fixture() -> Path:
    """Folder with 8 real COCO val images."""
    return _present(DATA / 'coco_fixture_8')


@pytest.fixture(scope='session')
def coco_subset() -> Path:
    """Folder with real COCO train and val images."""
    return _present(DATA / 'coco2017_subset')


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f'real COCO images are not there: {folder} does not exist')
    return folder


@pytest.fixture(scope='session')
def tiny_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 8 train and 4 val images of the demo set."""
    from erq_mm.demo.shapes import make_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, splits={'train': 8, 'val': 4})
    return root
