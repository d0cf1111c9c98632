"""What the benchmark knows about tasks: which one a config is of, and what a resample of its images measures."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from erq_mm.analysis.bootstrap import image_weights
from erq_mm.benchmark.cells import Cell, Store
from erq_mm.benchmark.detectors import Detector
from erq_mm.benchmark.protocols import METRICS, protocol_of
from erq_mm.benchmark.protocols.top_one import CORRECT, HitRecorder, TopOneProtocol
from erq_mm.benchmark.study import build_study

from ..conftest import ROOT

COCO = dict(type='mmdet.CocoMetric', ann_file='a.json')


@pytest.mark.parametrize(
    ('evaluator', 'metrics'),
    [
        (COCO, ['box', 'mask']),
        ([dict(type='VOCMetric'), COCO], ['box', 'mask']),
        (dict(type='mmpretrain.Accuracy', topk=(1, 5)), ['top1']),
        ([dict(type='TopKAccuracy')], ['top1']),
    ],
)
def test_a_config_says_its_task_by_its_evaluator(evaluator: object, metrics: list[str]) -> None:
    config = Config(dict(test_evaluator=evaluator))
    assert [metric.key for metric in protocol_of(config).metrics] == metrics


def test_other_evaluators_are_named() -> None:
    with pytest.raises(ValueError, match=r"CocoMetric with an ann_file or an Accuracy .* got \['VOCMetric'\]"):
        protocol_of(Config(dict(test_evaluator=dict(type='VOCMetric'))))


def test_top_one_is_the_share_of_images_drawn() -> None:
    arrays = {CORRECT: np.array([True, False, True, True])}
    weights = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 2, 1, 1]])
    protocol = TopOneProtocol()
    assert protocol.percent(arrays, lambda images: weights)['top1'].tolist() == [75.0, 100.0, 50.0]
    assert protocol.measured(arrays) == {'top1': 75.0}
    spread = protocol.percent({CORRECT: np.arange(1000) < 800}, image_weights)['top1'].std()
    assert spread == pytest.approx(100 * (0.8 * 0.2 / 1000) ** 0.5, rel=0.15)  # the binomial's


def test_hits_are_noted_in_the_order_of_the_images() -> None:
    recorder = HitRecorder()
    for labels in ((1, 0), (2,)):
        scores = torch.tensor([0.1, 0.7, 0.2])
        outputs = [SimpleNamespace(pred_score=scores, gt_label=torch.tensor([label])) for label in labels]
        recorder.hooks[0].after_test_iter(None, 0, None, outputs)
    assert recorder.arrays()[CORRECT].tolist() == [True, False, False]


def test_every_metric_is_a_column() -> None:
    study = build_study('s', {'recipes': ['rtn'], 'detectors': ['mask']}, ROOT)
    assert list(study.columns) == ['box', 'mask', 'box_difference', 'mask_difference', 'fidelity', 'seconds']
    assert len({metric.stored for metric in METRICS.values()}) == len(METRICS)


def test_models_of_two_tasks_do_not_share_a_grid(tmp_path: Path) -> None:
    (tmp_path / 'classifier.py').write_text("test_evaluator = dict(type='Accuracy')")
    (tmp_path / 'weights.pth').touch()
    classifier = {'config': str(tmp_path / 'classifier.py'), 'checkpoint': str(tmp_path / 'weights.pth')}
    alone = build_study('s', {'recipes': ['rtn'], 'detectors': [classifier]}, ROOT)
    assert list(alone.columns) == ['top1', 'top1_difference', 'fidelity', 'seconds']
    with pytest.raises(ValueError, match=r"one task, got .*'mask': \['box AP', 'mask AP'\], 'classifier': \['top-1'\]"):
        build_study('s', {'recipes': ['rtn'], 'detectors': ['mask', classifier]}, ROOT)


def test_cells_of_before_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, 'digest', lambda self: self.name)
    store, cell = Store(tmp_path), Cell('accuracy', Detector('d', 'c', 'p'))
    store.path(cell).write_text(json.dumps({'ap': {'bbox': 50.21}, 'mmdet_ap': {'bbox': 50.2}}))
    assert store.read(cell) == {'measured': {'bbox': 50.21}, 'reported': {'bbox': 50.2}}
