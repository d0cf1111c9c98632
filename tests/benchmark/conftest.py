"""The demo detector on a few generated images, as an entry of a grid."""

from pathlib import Path
from typing import Any

import pytest

from ..engine.conftest import CHECKPOINT, CONFIG


@pytest.fixture
def tiny_detector(tiny_shapes: Path) -> dict[str, Any]:
    """A user's own detector: the demo's, on the tiny set."""
    root = f'{tiny_shapes}/'
    options = [
        *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
        *(f'{split}_dataloader.num_workers=0' for split in ('val', 'test')),
        *(f'{split}_dataloader.persistent_workers=False' for split in ('val', 'test')),
        f'test_evaluator.ann_file={root}annotations/instances_val.json',
    ]
    return {'name': 'tiny', 'config': CONFIG, 'checkpoint': CHECKPOINT, 'options': options}
