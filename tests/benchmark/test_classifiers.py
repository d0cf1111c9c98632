"""A grid on a tiny classifier: its cells through the worker's own code, and the page and CSV they make."""

import csv
from pathlib import Path

import pytest
from mmengine.config import Config

from erq_mm.benchmark.cells import FORMAT, Store
from erq_mm.benchmark.detectors import prepare_data, resolve_detector
from erq_mm.benchmark.provenance import provenance
from erq_mm.benchmark.session import write_studies
from erq_mm.benchmark.storage import write_arrays, write_json
from erq_mm.benchmark.study import Study, build_study
from erq_mm.benchmark.worker import run_cell

from ..conftest import ROOT

pytest.importorskip('mmpretrain', reason='classifiers need the extra `timm`')

from ..engine.classification.conftest import checkpoint, images, write_config  # noqa: E402, F401  fixtures


@pytest.fixture
def study(write_config: object, checkpoint: Path) -> Study:  # noqa: F811
    model = {'name': 'vit-s', 'config': write_config(), 'checkpoint': str(checkpoint)}
    grid = {'detectors': [model], 'recipes': ['repq'], 'bits': ['W4A4'], 'images': [2], 'published': 'imagenet'}
    return build_study('tiny', grid | {'figures': ['accuracy', 'fidelity', 'seconds', 'curve']}, ROOT)


def run(study: Study, store: Store, scratch: Path) -> None:
    """Run the cells of a study in this process."""
    for cell in study.cells():
        result, arrays = run_cell(cell, scratch)
        write_arrays(store.path(cell, '.npz'), arrays)
        write_json(store.path(cell), {'format': FORMAT, 'cell': cell.to_dict(), **result, 'provenance': provenance(1)})


def test_two_cells_make_a_page(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, 'pretty_text', '')  # which formats the config again and again: most of a tiny run
    store = Store(tmp_path / 'cells')
    run(study, store, tmp_path / 'scratch')
    for cell in study.cells():
        result = store.read(cell)
        assert result['measured'] == pytest.approx(result['reported'], abs=1e-4) and set(result['measured']) == {'top1'}
        assert len(store.arrays(cell)['top1_correct']) == 12
    (written,) = write_studies([study], store, tmp_path / 'out', {'tiny': 'python tools/benchmark.py tiny.py'})
    (table,) = written.section.tables
    assert table.title == 'ViT-S' and table.columns == [
        'recipe', 'bits', 'top-1', 'top-1 - float', 'unexplained variance, %', 'calibration, s',
        'published, ImageNet: ViT-S',
    ]  # fmt: skip
    assert [row[-1].split()[0] for row in table.rows] == ['81.39', '65.05'] and 'top-1 in percent' in table.notes[0]
    float_row, repq = csv.DictReader((tmp_path / 'out/tiny.csv').open())
    assert float(float_row['fidelity']) == 0 < float(repq['fidelity']) == float(repq['fidelity_logits']) < 1
    assert float(repq['top1_low']) <= float(repq['top1']) <= float(repq['top1_high'])
    assert {path.name for path in (tmp_path / 'out').glob('*.png')} == {
        'tiny_accuracy.png', 'tiny_fidelity.png', 'tiny_seconds.png', 'tiny_curve.png',
    }  # fmt: skip


def test_a_missing_folder_is_named_before_any_cell(study: Study) -> None:
    prepare_data(list(study.detectors), ROOT)
    with pytest.raises(FileNotFoundError, match=r"'deit-s': folder data/imagenet.* does not exist; set data_root with"):
        prepare_data([resolve_detector('deit-s', ROOT)], ROOT)


def test_an_imagenet_model_is_timms() -> None:
    model = resolve_detector('swin-b', ROOT)
    assert model.checkpoint == 'timm://swin_base_patch4_window7_224.ms_in22k_ft_in1k' and model.title == 'Swin-B'
    assert model.digest() != resolve_detector('swin-s', ROOT).digest()


@pytest.mark.slow
def test_operations_and_distributions_of_a_classifier(study: Study, tmp_path: Path) -> None:
    (model,) = study.detectors
    operations, _ = run_cell(study.analysis_cell(model, 'operations'), tmp_path)
    assert operations['image'] == {'height': 32, 'width': 32}
    tokens, width = 17, 32  # multiply-accumulates of a layer are tokens * inputs * outputs
    assert operations['macs']['model.blocks.0.attn.qkv'] == tokens * width * 3 * width
    distributions, _ = run_cell(study.analysis_cell(model, 'distributions'), tmp_path)
    assert distributions['layers'] == {'qkv': 'model.blocks.1.attn.qkv', 'fc1': 'model.blocks.1.mlp.fc1'}
