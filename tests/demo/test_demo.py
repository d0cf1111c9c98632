"""The demo's own script on a few images: table, reports and pictures."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import pytest

from ..conftest import ROOT


def test_demo_compares_recipes_and_draws_pictures(
    tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools/demo.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    monkeypatch.setattr(demo, 'make_shapes', lambda root: None)  # the tiny set stands in for the whole one
    monkeypatch.setattr(demo, 'PICTURES', 2)
    line = ['demo.py', '--data', str(tiny_shapes), '--output', str(tmp_path / 'out'), '--recipes', 'erq']
    monkeypatch.setattr(sys, 'argv', line)
    demo.main()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ('float', 'erq', 'box AP', 'detections.png'))
    reports = sorted((tmp_path / 'out').glob('*/*/quantization.json'))
    assert [json.loads(path.read_text())['recipe'] for path in reports] == ['erq']
    picture = cv2.imread(str(tmp_path / 'out/detections.png'))
    assert picture.shape[1] > 1.1 * picture.shape[0]  # 2 rows of 3: ground truth, float, erq
    assert picture.std() > 20
