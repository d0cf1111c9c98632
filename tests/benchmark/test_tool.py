"""tools/benchmark.py for real: cells on the tiny set, resumed, with one that fails; and the analyses."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erq_mm.benchmark import analyses
from erq_mm.benchmark.comparing import main
from erq_mm.benchmark.figures import ANALYSIS_FIGURES
from erq_mm.benchmark.study import load_study
from erq_mm.benchmark.worker import run_cell

from ..conftest import ROOT

GRID = """
title = 'Tiny & quick'
recipes = [dict(type='rtn', label='nearest')]
bits = ['W4A4']
images = [2]
columns = ['box', 'mask', 'box_difference', 'fidelity', 'fidelity_mask', 'seconds', 'memory', 'size', 'operations']
figures = ['accuracy', 'fidelity', 'seconds', 'curve']
analyses = ['operations']
published = 'coco'
detectors = [DETECTOR]
"""
FLAGS = ('--cells', 'cells', '--out', 'out', '--jobs', '2', '--threads', '1')


@pytest.fixture
def grid(tiny_detector: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / 'tiny.py'
    path.write_text(GRID.replace('DETECTOR', repr(tiny_detector)))
    return path


@pytest.fixture
def run_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Return a function that runs the tool in `tmp_path` and returns what it printed, or the message it ended with."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments])
        try:
            main()
        except SystemExit as end:
            return str(end)
        return capsys.readouterr().out

    return run


def test_runs_cells_writes_pages_resumes_and_reports_failures(grid: Path, run_tool: Callable, tmp_path: Path) -> None:
    printed = run_tool(grid.name, *FLAGS)
    assert '3 cells, 0 done before, 3 to run' in printed and 'Tiny & quick: tiny' in printed
    results = {path: json.loads(path.read_text()) for path in sorted((tmp_path / 'cells').glob('*.json'))}
    assert len(results) == 3
    _check_accuracy([result for result in results.values() if result['cell']['kind'] == 'accuracy'])
    _check_pages(tmp_path / 'out')
    times = {path: path.stat().st_mtime_ns for path in results}
    assert '3 cells, 3 done before, 0 to run' in run_tool(grid.name, *FLAGS)
    # the tiny set has 8 train images: 9 cannot be drawn, which only the cell itself finds out
    ending = run_tool(grid.name, *FLAGS, '--images', '2', '9')
    assert '1 cell(s) failed' in ending and 'asks for 9 images' in ending
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'cells').glob('*.json')} == times
    assert '1 of 3 rows are not measured yet' in (tmp_path / 'out/tiny.md').read_text()


def _check_accuracy(results: list[dict[str, Any]]) -> None:
    assert {result['cell']['recipe'] is None for result in results} == {True, False}
    for result in results:
        for task in ('bbox', 'segm'):  # mmdet rounds its figures to 0.1 percent
            assert abs(result['measured'][task] - result['reported'][task]) <= 0.05 + 1e-9
            assert result['measured'][task] > 10
        assert {'machine', 'commit', 'code', 'versions', 'threads', 'jobs'} == set(result['provenance'])
        assert result['provenance']['jobs'] == 2 and result['provenance']['threads'] == 1
    (quantized,) = [result for result in results if result['report']]
    assert all('output_mse' in layer for layer in quantized['report']['layers'])
    assert len(quantized['report']['calibration']['image_ids']) == 2
    _check_fidelity(quantized['report']['fidelity'])


def _check_fidelity(found: dict[str, Any]) -> None:
    parts = ('fpn', 'rpn_cls', 'rpn_reg', 'box_cls', 'box_reg')
    assert set(found['parts']) == {*parts, 'mask'} and len(found['units']) == 5 + 2 + 2 + 1
    assert all(0 < fraction < 0.5 for fraction in found['units'].values())
    assert found['mean'] == pytest.approx(sum(found['parts'][part] for part in parts) / 5, rel=1e-12)
    assert found['split'] == 'test' and sorted(found['image_ids']) == [1, 2, 3, 4]  # all that there are


def _check_pages(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {
        'README.md', 'tiny.html', 'tiny.md', 'tiny.csv', 'tiny_accuracy.png', 'tiny_fidelity.png', 'tiny_seconds.png',
        'tiny_curve.png',
    }  # fmt: skip
    float_row, nearest = csv.DictReader((out / 'tiny.csv').open())
    assert (float_row['label'], nearest['label'], nearest['bits']) == ('float', 'nearest', 'W4A4')
    assert float(nearest['box_ap_low']) <= float(nearest['box_ap']) <= float(nearest['box_ap_high'])
    assert float(float_row['fidelity']) == float(float_row['fidelity_box_reg']) == 0 < float(nearest['fidelity']) < 0.5
    assert float(float_row['giga_bit_operations']) > 1.5 * float(nearest['giga_bit_operations']) > 0
    assert '[Tiny & quick](tiny.md)' in (out / 'README.md').read_text()
    assert 'measured with 2 cells side by side' in (out / 'tiny.md').read_text()
    page = (out / 'tiny.md').read_text()
    assert '| unexplained variance, % | unexplained variance, %: mask logits |' in page
    assert '| nearest | W4A4 |' in page and 'python tools/benchmark.py tiny.py' in page
    html = (out / 'tiny.html').read_text()
    assert html.count('data:image/png;base64,') == 4 and 'Tiny &amp; quick' in html
    assert 'src="http' not in html and '.png"' not in html


def test_a_wrong_grid_ends_before_any_cell(grid: Path, run_tool: Callable, tmp_path: Path) -> None:
    grid.write_text(grid.read_text() + "\nrecipies = ['rtn']\n")
    assert "did you mean 'recipes'" in run_tool(grid.name, *FLAGS)
    grid.write_text(grid.read_text().replace('recipies', 'seeds').replace("seeds = ['rtn']", 'seeds = [0]'))
    assert 'W4A9' in run_tool(grid.name, *FLAGS, '--bits', 'W4A9')
    assert 'jobs' in run_tool(grid.name, *FLAGS, '--jobs', '0')
    assert 'is no JSON' in run_tool(grid.name, *FLAGS, '--recipes', '{type: rtn}')
    assert not (tmp_path / 'cells').exists()


def test_dry_run_lists_cells_and_runs_none(grid: Path, run_tool: Callable, tmp_path: Path) -> None:
    printed = run_tool(grid.name, *FLAGS, '--dry-run', '--bits', 'W4A4', 'W3A3')
    assert '4 cells, 0 done before, 4 to run' in printed
    assert all(name in printed for name in ('tiny_float-', 'tiny_rtn_w4a4_2img_seed0_linears-', 'tiny_rtn_w3a3_2img'))
    assert not (tmp_path / 'cells').exists() and not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_distributions_and_proxy_of_a_detector(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reparameterized channels have equal ranges; the proxy is the error on its own rows and a plot comes out."""
    monkeypatch.setattr(analyses, 'OTHER_IMAGES', 2)
    study = load_study(grid, {'images': [1]}, ROOT)
    (detector,) = study.detectors
    found = {k: run_cell(study.analysis_cell(detector, k), tmp_path / 'work') for k in ('distributions', 'proxy')}
    spread = found['distributions'][0]['range_spread']
    for title in ('qkv', 'fc1', 'patch merging'):
        assert spread[f'{title}|before'] > 1.5 > 1.2 > spread[f'{title}|after']
        arrays = found['proxy'][1]
        assert arrays[f'{title}|proxy'] == pytest.approx(arrays[f'{title}|calibration_error'], rel=1e-9)
    for kind, (result, arrays) in found.items():
        png, caption = ANALYSIS_FIGURES[kind](detector, result, arrays)
        assert png.startswith(b'\x89PNG') and 'tiny' in caption
    shutil.rmtree(tmp_path / 'work', ignore_errors=True)
