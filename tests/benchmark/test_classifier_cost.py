"""The script that measures what calibrating a classifier costs."""

import re
import subprocess
import sys

import pytest

from ..conftest import ROOT

pytest.importorskip('timm', reason='classifiers need the extra `timm`')


@pytest.mark.slow
def test_prints_time_and_memory() -> None:
    script = [sys.executable, str(ROOT / 'tools/measure_classifier_cost.py')]
    line = ['--model', 'deit_tiny_patch16_224', '--images', '2', '--batch', '2', '--repeat', '1', '--threads', '1']
    done = subprocess.run([*script, *line], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: float(value) for name, value in re.findall(r'│ (\S.*?\S) +│ +([\d.]+)', done.stdout)}
    assert found['calibration on 2 images, in float forwards of them'] > 1
    few, many = (found[f'peak above the float forward, {count} images, MB'] for count in (2, 16))
    assert 0 < few and many < 2 * few
    wrong = subprocess.run([*script, '--images', '3', '--batch', '2'], capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 1 and '--images 3 is no multiple of --batch 2' in wrong.stderr
