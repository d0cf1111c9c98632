"""A broken stack is one message with both versions and the repair command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def import_plugin(fake: Path) -> str:
    done = subprocess.run(
        [sys.executable, '-c', 'import erq_mm.engine'],
        env=os.environ | {'PYTHONPATH': str(fake)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stderr


@pytest.mark.parametrize(
    ('package', 'content', 'words'),
    [
        (
            'torchvision',
            "raise RuntimeError('operator torchvision::nms does not exist')",
            ['installed torchvision', 'torchvision::nms', 'pip uninstall -y torchvision'],
        ),
        ('mmcv', "__version__ = '2.2.0'", ['installed mmcv', 'mmcv==2.1.0', 'mmengine 0.10']),
        ('mmengine', "raise ImportError('cannot import name x')", ['installed mmengine', 'mmengine==0.10.7']),
        (
            'mmpretrain',
            'class Model(None): pass',  # what it does beside new transformers
            ['installed mmpretrain', 'TypeError', 'pip uninstall -y mmpretrain', 'transformers'],
        ),
        ('mmdet', "raise AssertionError('MMCV==2.2.0 is used but incompatible')", ['installed mmcv', 'mmcv==2.1.0']),
    ],
)
def test_broken_package(package: str, content: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / '__init__.py').write_text(content)
    message = import_plugin(tmp_path)
    for word in [*words, 'found:', 'tested: torch 2.13.0', 'repair:']:
        assert word in message, message
    assert message.count('Traceback') == 1


def test_the_installed_stack_passes(tmp_path: Path) -> None:
    assert 'Error' not in import_plugin(tmp_path)
