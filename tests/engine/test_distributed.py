"""Two processes give the AP of one, to the digit, and so does the file that one of them saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, free_port
from .conftest import CHECKPOINT, CONFIG


def run(work_dir: Path, checkpoint: str, arguments: list[str], processes: int) -> dict:
    launcher = [str(ROOT / 'tools/dist_test.sh'), CONFIG, checkpoint, str(processes)]
    single = [sys.executable, str(ROOT / 'tools/test.py'), CONFIG, checkpoint]
    command = single if processes == 1 else launcher
    environment = os.environ | {'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PORT': str(free_port())}
    done = subprocess.run(
        [*command, '--work-dir', str(work_dir), *arguments],
        env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logged = [p for p in work_dir.glob('*/*.json') if p.name != 'quantization.json']
    return {k: v for k, v in json.loads(logged[0].read_text()).items() if 'mAP' in k}


def test_two_processes_equal_one(tmp_path: Path, data_options: list[str]) -> None:
    recipe = ['--recipe', 'erq', '--cfg-options', *data_options]
    one, two = (run(tmp_path / str(n), CHECKPOINT, recipe, n) for n in (1, 2))
    assert one == two
    assert one['coco/bbox_mAP'] > 0.1
    assert len(list((tmp_path / '2').glob('*/quantization.json'))) == 1


@pytest.mark.slow
def test_what_two_processes_saved(tmp_path: Path, data_options: list[str]) -> None:
    path = tmp_path / 'model.safetensors'
    save = ['--recipe', 'erq', '--cfg-options', *data_options, f'default_hooks.quantization.save={path}']
    two = run(tmp_path / 'saving', CHECKPOINT, save, 2)
    loaded = [run(tmp_path / f'loaded{n}', str(path), ['--cfg-options', *data_options], n) for n in (1, 2)]
    assert loaded == [two, two]
