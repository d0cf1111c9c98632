"""A saved classifier as a graph: tools/export.py, and tools/test.py --backend with the engines of the detectors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import erq_mm
from erq_mm.engine.exporting import main as export
from erq_mm.engine.quantizing import main as quantize

from ...export.onnx.conftest import ENGINES, without_products
from .conftest import scores

onnx = pytest.importorskip('onnx', reason='exports need the package onnx')


@pytest.fixture
def saved(write_config: Callable, checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / 'model.safetensors'
    few = 'default_hooks.quantization.calibration.num_images=4'
    quantize(None, [write_config(), str(checkpoint), '--recipe', 'rtn_w4a8', '--out', str(path), '--cfg-options', few])
    return path


@pytest.mark.parametrize('engine', [ENGINES[0], pytest.param(ENGINES[1], marks=pytest.mark.slow)])
def test_a_saved_file_runs_in_an_engine(
    engine: str, saved: Path, make_runner: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tools/test.py gives the scores of the simulation without attention products, which graphs have in float."""
    pytest.importorskip(engine, reason=f'{engine} is not installed')
    exported = export(None, [str(saved), '--out', str(tmp_path / 'out'), '--prove', engine])
    manifest = json.loads((tmp_path / 'out/manifest.json').read_text())
    assert list(manifest['parts']) == ['classifier'] and not manifest['in_torch']
    assert manifest['parts']['classifier']['inputs'] == ['image']
    account = exported.parts[0].account
    assert len(account.integer_layers) == 9  # 4 in each of 2 blocks, the head
    assert [layer.reason for layer in account.float_layers] == ["input grid 'pixels': no kernel has it"]
    assert '4 products of attention were quantized' in capsys.readouterr().out

    runner = make_runner('--backend', engine, weights=saved)
    found = scores(runner)
    simulated = without_products(erq_mm.load_quantized(saved))
    batches = [simulated.test_step(batch) for batch in runner.test_dataloader]
    wanted = torch.stack([sample.pred_score for batch in batches for sample in batch])
    assert (found - wanted).square().sum() < 1e-3 * wanted.square().sum()
    assert not any(isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) for module in runner.model.modules())
