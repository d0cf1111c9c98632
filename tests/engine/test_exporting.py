"""tools/export.py: a saved detector becomes graphs, a manifest and a table; faults end with one line."""

import json
from pathlib import Path

import pytest
import torch

import erq_mm
from erq_mm.engine.exporting import main
from erq_mm.engine.saved_detectors import save_detector

from .test_graph_backends import DetectorTask, images, load  # noqa: F401

onnx = pytest.importorskip('onnx', reason='exports need the package onnx')


@pytest.fixture(scope='module')
def saved(images, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    model = load('mask')
    report = erq_mm.quantize_(model, DetectorTask(images[:1], False), 'repq', 4, 8)
    path = tmp_path_factory.mktemp('saved') / 'model.safetensors'
    save_detector(model, path, report, model.cfg, model.dataset_meta)
    return path


def test_file_becomes_graphs_and_a_manifest(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    export = main(None, [str(saved), '--out', str(tmp_path / 'out'), '--prove', 'onnxruntime'])
    manifest = json.loads((tmp_path / 'out/manifest.json').read_text())
    assert list(manifest['parts']) == ['backbone_neck', 'rpn_head', 'bbox_head', 'mask_head']
    for part in manifest['parts'].values():
        graph = onnx.load(tmp_path / 'out' / part['file']).graph
        assert part['inputs'] == [value.name for value in graph.input]
    kernels = manifest['parts']['bbox_head']['kernels']['onnxruntime']
    assert set(map(tuple, kernels.values())) == {('MatMulIntegerToFloat',)}
    linears = [layer for part in export.parts for layer in part.account.integer_layers]
    assert len(linears) == 47  # 40 of the blocks, 3 mergings, 4 of the box head
    reasons = [layer.reason for layer in export.parts[0].account.float_layers if 'patch_embed' in layer.name]
    assert reasons == ["input grid 'pixels': no kernel has it"]
    weights, floats = export.parts[2].weight_bytes
    assert floats == 4 * weights == 4 * sum(m.weight.numel() for m in box_layers(saved))
    printed = capsys.readouterr().out
    assert 'bbox_head' in printed and '20 products of attention were quantized and are float' in printed


def box_layers(path: Path) -> list[torch.nn.Module]:
    head = erq_mm.load_quantized(path).roi_head.bbox_head
    return [*head.shared_fcs, head.fc_cls, head.fc_reg]


def test_missing_file_ends_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r'no quantized model .*nothing\.safetensors'):
        main(None, [str(tmp_path / 'nothing.safetensors'), '--out', str(tmp_path / 'out')])
