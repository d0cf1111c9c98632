"""Fidelity as tables have it: means over seeds, shares of a baseline, and cells of before it was measured."""

from typing import Any

import pytest

from erq_mm.benchmark.fidelity import fidelity_of
from erq_mm.benchmark.figures.fidelity import fidelity_figure
from erq_mm.benchmark.results import Row
from erq_mm.benchmark.study import Study, build_study
from erq_mm.benchmark.tables import study_tables

from ..conftest import ROOT

FLOAT_RESULT = {'report': None, 'measured': {}, 'provenance': {'jobs': 1}}


def result(mean: float | None = None, **parts: float) -> dict[str, Any]:
    report = {} if mean is None else {'fidelity': {'mean': mean, 'parts': parts}}
    return FLOAT_RESULT | {'report': {'seconds': {'total': 1.0}} | report}


def row(study: Study, label: str, *results: dict[str, Any]) -> Row:
    bits, images = ('float', None) if label == 'float' else ('W4A4', 16)
    return Row(study.detectors[0], label, label, bits, images, 'linears', None, results, {})


@pytest.fixture
def study() -> Study:
    columns = ['fidelity', 'fidelity_share', 'fidelity_mask']
    grid = {'detectors': ['mask'], 'recipes': ['repq', 'erq', 'rtn'], 'baseline': 'repq', 'columns': columns}
    return build_study('s', grid, ROOT)


def test_a_float_model_explains_all_and_a_missing_seed_leaves_no_mean() -> None:
    assert fidelity_of([FLOAT_RESULT]) == fidelity_of([FLOAT_RESULT], 'mask') == 0
    assert fidelity_of([result(0.25), result(0.75)]) == 0.5
    assert fidelity_of([result(0.25, mask=0.5)], 'mask') == 0.5
    assert fidelity_of([result(0.25), result()]) is None  # one was measured by older code
    assert fidelity_of([result(0.25)], 'mask') is None


def test_tables_have_percent_shares_and_say_what_is_missing(study: Study) -> None:
    repq = row(study, 'repq', result(0.04, mask=0.5), result(0.06, mask=0.5))
    rows = [
        row(study, 'float', FLOAT_RESULT),
        repq,
        row(study, 'erq', result(0.00123456, mask=12)),
        row(study, 'rtn', result()),
    ]
    (table,) = study_tables(study, rows)
    assert table.columns[2:] == [
        'unexplained variance, %', "unexplained, share of repq's", 'unexplained variance, %: mask logits',
    ]  # fmt: skip
    assert [line[2:] for line in table.rows] == [
        ['0', '', '0'],
        ['5', '1.00', '50'],
        ['0.123', '0.02', '1200'],
        ['', '', ''],
    ]
    assert any(note.startswith('1 of 4 rows have none') for note in table.notes)


def test_the_plot_shows_what_was_measured(study: Study) -> None:
    rows = [row(study, 'float', FLOAT_RESULT), row(study, 'rtn', result())]
    assert fidelity_figure(study, rows) is None
    png, caption = fidelity_figure(study, [*rows, row(study, 'erq', result(0.1, fpn=0.05, box_cls=0.15))])
    assert png.startswith(b'\x89PNG') and 'unexplained' in caption
