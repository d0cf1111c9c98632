"""Evaluations by `tools/test.py` in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT, free_port


def evaluate(config: str, checkpoint: str, work_dir: Path, arguments: list[str], processes: int) -> dict:
    """Return what the evaluation logged, metrics among it."""
    launcher = [str(ROOT / 'tools/dist_test.sh'), config, checkpoint, str(processes)]
    single = [sys.executable, str(ROOT / 'tools/test.py'), config, checkpoint]
    command = single if processes == 1 else launcher
    environment = os.environ | {'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PORT': str(free_port())}
    done = subprocess.run(
        [*command, '--work-dir', str(work_dir), *arguments],
        env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    logged = [p for p in work_dir.glob('*/*.json') if p.name != 'quantization.json']
    # mmengine writes it in every process, and of a longer one an end may stay behind
    return json.JSONDecoder().raw_decode(logged[0].read_text())[0]
