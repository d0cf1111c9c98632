"""tools/benchmark.py latency: a tiny subject in every engine that is installed, JSON and Markdown."""

import json
from pathlib import Path

import pytest

from erq_mm.benchmark.latency import run, subjects
from erq_mm.benchmark.latency.engines import ENGINES
from erq_mm.benchmark.latency.tables import Result, markdown


def test_page_compares_with_every_reference_there_is() -> None:
    result = Result(
        'Swin', 'W8A8', {'PyTorch fp32': [300.0], 'ORT fp32': [200.0], 'OV int8': [100.0]}, {'OV bf16': 'no'}
    )
    page = markdown([result], {'processor': 'P', 'instructions': 'I'}, threads=1)
    assert '| OV int8 | 100 | 2.00 (2.00-2.00) | 3.00 (3.00-3.00) |' in page and '- OV bf16: no' in page
    assert result.to_dict()['ratios']['PyTorch fp32'] == pytest.approx((2 / 3,) * 3)


def test_tool_measures_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    monkeypatch.setitem(subjects.SWIN, 't', (32, (1, 1, 1, 1), (1, 2, 4, 8)))
    monkeypatch.setitem(subjects.SUBJECTS, 'backbone', subjects.Subject('t', 64, 96))
    engines = ['PyTorch fp32', 'ORT fp32', 'ORT int8', 'eager int8']
    out = tmp_path / 'latency'
    run.main(['--bits', 'W4A8', '--rounds', '2', '--engines', *engines, '--profile', '--out', str(out)])
    values = json.loads(out.with_suffix('.json').read_text())
    (result,) = values['results']
    assert {'PyTorch fp32', 'ORT fp32', 'ORT int8'} <= set(result['milliseconds']) and result['ratios']
    assert set(result['milliseconds']) | set(result['unavailable']) == set(engines)
    assert 'MatMulIntegerToFloat' in result['profiles']['ORT int8']
    page = out.with_suffix('.md').read_text()
    assert 'VNNI' in page and 'Swin-T backbone 64x96, W4A8' in page


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    """A graph with a weight of 100 MB needs at least that."""
    import numpy as np

    from erq_mm.benchmark.latency.memory import peak_mb
    from erq_mm.export.onnx.graph import GraphBuilder

    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    graph = GraphBuilder('large')
    rows = graph.add('Reshape', graph.input('image', (1, 3, 'height', 'width')), graph.constant([1, -1]))
    weight = graph.constant(np.random.default_rng(0).random((48, 520_000), np.float32), 'weight')
    graph.output(graph.add('ReduceMax', graph.add('MatMul', rows, weight)), 'y', (1, 1))
    assert 100 < peak_mb(graph.model(), 'onnxruntime', 'f32', 4, 4) < 1000


def test_help_lists_the_engines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(['--help'])
    assert all(name.split()[0] in capsys.readouterr().out for name in list(ENGINES)[:1])
