"""The table and the pictures of the classification demo."""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from erq_mm.demo.classification import Predictions, accuracy_table, paired_difference, predictions_of, telling_images
from erq_mm.demo.digit_pictures import draw_predictions
from erq_mm.demo.digits import make_digits

from ..conftest import ROOT

IMAGES = 600
LABELS = np.arange(IMAGES) % 10


def run_with_errors(name: str, wrong: np.ndarray, paths: list[str] | None = None) -> Predictions:
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    return Predictions(name, LABELS, predicted, paths or [''] * IMAGES)


def test_difference_is_of_the_images_that_one_alone_is_right_on() -> None:
    shared = np.arange(0, 200)  # both are wrong here: adds nothing to the difference, nor to its interval
    first, second = run_with_errors('a', np.arange(0, 230)), run_with_errors('b', np.r_[shared, 590:600])
    found = paired_difference(first, second)
    assert found.value == pytest.approx(100 * (10 - 30) / IMAGES)
    discordant = np.r_[-np.ones(30), np.ones(10), np.zeros(IMAGES - 40)]
    half = 1.96 * 100 * discordant.std() / IMAGES**0.5  # McNemar's normal interval
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(found.value, abs=0.2 * half)
    opposite = paired_difference(second, first)
    assert (opposite.value, opposite.low, opposite.high) == pytest.approx((-found.value, -found.high, -found.low))
    same = paired_difference(first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_table_has_a_row_per_recipe_and_columns_per_bits() -> None:
    base = run_with_errors('float', np.arange(6))
    low = Predictions('erq', LABELS, run_with_errors('', np.arange(60)).predicted, [])
    high = Predictions('erq', LABELS, run_with_errors('', np.arange(12)).predicted, [])
    table = accuracy_table('title', base, {'W4A4': [high], 'W3A3': [low]})
    console = Console(width=160, record=True, quiet=True)
    console.print(table)
    assert [column.header for column in table.columns][1::2] == ['W4A4 top-1', 'W3A3 top-1']
    cells = [list(column.cells) for column in table.columns]
    assert [column[0] for column in cells] == ['float', '99.0', '', '99.0', '']
    row = [column[1] for column in cells]
    assert [row[0], row[1], row[3]] == ['erq', '98.0', '90.0']
    assert row[2].startswith('-1.0 [-') and row[4].startswith('-9.0 [-')


def test_samples_of_mmpretrain_are_read() -> None:
    pytest.importorskip('mmpretrain', reason='mmpretrain is an extra')
    from mmpretrain.structures import DataSample

    samples = [
        DataSample(metainfo=dict(img_path=f'{i}.png')).set_gt_label(i).set_pred_label(i // 2 * 2) for i in range(4)
    ]
    found = predictions_of('float', samples)
    assert found.correct.tolist() == [True, False, True, False]
    assert (found.top1, found.paths[3]) == (50.0, '3.png')


def test_pictures_show_images_that_tell_the_runs_apart(tmp_path: Path) -> None:
    path = str(tmp_path / 'image.png')
    cv2.imwrite(path, np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8))
    base = run_with_errors('float', np.arange(5), [path] * IMAGES)
    runs = [run_with_errors('rtn', np.arange(20), [path] * IMAGES), run_with_errors('erq', np.arange(8))]
    chosen = telling_images(base, runs, 4)
    assert len(chosen) == 4 and set(chosen) <= set(range(8, 20))  # float and erq are right, rtn is wrong
    draw_predictions(tmp_path / 'out.png', {'model': [base, *runs]}, {'model': chosen}, list('0123456789'))
    assert cv2.imread(str(tmp_path / 'out.png')).shape[1] > 500
    assert [p.name for p in tmp_path.glob('*.png')].count('.out.png') == 0


@pytest.mark.slow
def test_demo_compares_recipes_on_both_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip('mmpretrain', reason='mmpretrain is an extra')
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn, an extra')
    spec = importlib.util.spec_from_file_location('demo_classification', ROOT / 'tools/demo_classification.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    make_digits(tmp_path / 'digits', limit=300)
    monkeypatch.setattr(demo, 'make_digits', lambda root: None)  # a part of the set stands in for the whole
    found, run_model = {}, demo.run_model
    monkeypatch.setattr(demo, 'run_model', lambda name, *rest: found.setdefault(name, run_model(name, *rest)))
    line = ['demo', '--data', str(tmp_path / 'digits'), '--output', str(tmp_path / 'out'), '--recipes', 'rtn', 'erq']
    monkeypatch.setattr(sys, 'argv', line)
    demo.main()
    assert list(found) == ['deit-mini', 'swin-mini']
    for base, runs in found.values():
        assert base.top1 >= 93
        rtn, erq = runs['W3A3']
        assert paired_difference(rtn, base).high < 0  # three bits hurt beyond doubt
        assert paired_difference(erq, rtn).high >= 0
        # 300 images resolve no gain of a point; what the scores lose is finer
        rtn_error, erq_error = (float(np.square(run.scores - base.scores).sum()) for run in (rtn, erq))
        assert erq_error < rtn_error
    printed = capsys.readouterr().out
    assert all(word in printed for word in ('float', 'rtn', 'erq', 'W4A4', 'W3A3', 'digits.png'))
    assert cv2.imread(str(tmp_path / 'out/digits.png')).std() > 20
