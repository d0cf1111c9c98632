"""Two processes give the AP of one, to the digit."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ..conftest import ROOT, free_port
from .conftest import CHECKPOINT, CONFIG


def run(work_dir: Path, options: list[str], processes: int) -> dict:
    launcher = [str(ROOT / 'tools/dist_test.sh'), CONFIG, CHECKPOINT, str(processes)]
    single = [sys.executable, str(ROOT / 'tools/test.py'), CONFIG, CHECKPOINT]
    command = single if processes == 1 else launcher
    environment = os.environ | {'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PORT': str(free_port())}
    done = subprocess.run(
        [*command, '--recipe', 'erq', '--work-dir', str(work_dir), '--cfg-options', *options],
        env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logged = [p for p in work_dir.glob('*/*.json') if p.name != 'quantization.json']
    return {k: v for k, v in json.loads(logged[0].read_text()).items() if 'mAP' in k}


def test_two_processes_equal_one(tmp_path: Path, data_options: list[str]) -> None:
    one, two = (run(tmp_path / str(n), data_options, n) for n in (1, 2))
    assert one == two
    assert one['coco/bbox_mAP'] > 0.1
    assert len(list((tmp_path / '2').glob('*/quantization.json'))) == 1
