"""Detectors of every kind, small and with random weights, through tools/test.py's code."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn

from erq_mm.calibration.report import Report
from erq_mm.core.quantizers import Quantizer
from erq_mm.engine.hook import ERQHook, unwrap
from erq_mm.engine.two_stage import evaluated_part
from erq_mm.nn import QuantLayer

from .zoo import small_config, small_runner

SCOPE = '--cfg-options', 'default_hooks.quantization.scope=all'

FAST = [('dino', 'linears'), ('panoptic-fpn', 'all'), ('soft-teacher', 'linears'), ('rtmdet-ins', 'all')]
SLOW = [
    (name, scope)
    for name in (
        'retinanet', 'atss', 'rtmdet-ins', 'dino', 'deformable-detr', 'deformable-detr-two-stage', 'mask2former', 'htc',
        'panoptic-fpn', 'soft-teacher', 'cascade-rpn', 'double-head', 'grid-rcnn', 'mask-scoring', 'point-rend',
        'dynamic-rcnn', 'sparse-rcnn',
    )
    for scope in ('linears', 'all')
    if (name, scope) not in FAST
]  # fmt: skip
CASES = FAST + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


def _report(runner: Runner) -> Report:
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ERQHook))
    return hook.report


@torch.no_grad()
def _features(runner: Runner, folder: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the features of the first test image, of the float model and of the quantized one."""
    float_model = MODELS.build(copy.deepcopy(runner.cfg.model)).eval()
    float_model.load_state_dict(torch.load(folder / 'random.pth', weights_only=True)['state_dict'])
    image = DATASETS.build(copy.deepcopy(runner.cfg.test_dataloader.dataset))[0]
    features = []
    for model in (float_model, unwrap(runner.model)):
        data = model.data_preprocessor(dict(inputs=[image['inputs']], data_samples=[image['data_samples']]), False)
        features.append(list(evaluated_part(model)[1].extract_feat(data['inputs'])))
    return features[0], features[1]


@pytest.mark.parametrize(('name', 'scope'), CASES)
def test_detector(name: str, scope: str, tiny_shapes: Path, tmp_path: Path) -> None:
    """It evaluates; all layers have seen rows and are quantized; 8 bits change the features little."""
    arguments = ('--recipe', 'rtn_w8a8', *(SCOPE if scope == 'all' else ()))
    runner = small_runner(small_config(name, tiny_shapes), tmp_path, *arguments)
    metrics = runner.test()
    assert metrics['images'] == 4
    assert metrics['finite'] == metrics['instances']
    report, model = _report(runner), unwrap(runner.model)
    assert len(report.layers) >= 34  # the backbone alone
    assert all(layer.a_bits == 8 for layer in report.layers)
    assert all(layer.has_quantized_weight for layer in model.modules() if isinstance(layer, QuantLayer))
    if scope == 'all':
        reasons = {layer['name']: layer['reason'] for layer in report.float_layers}
        for layer, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                assert reasons[layer].startswith(('transposed', 'grouped', 'evaluation does not run')), layer
    for wanted, found in zip(*_features(runner, tmp_path), strict=True):
        assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.15


@pytest.fixture(scope='module')
def plain(tiny_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict]:
    """State and metrics of a plain evaluation."""
    folder = tmp_path_factory.mktemp('plain')
    runner = small_runner(small_config('faster-rcnn', tiny_shapes), folder, '--recipe', 'erq_w6a6')
    metrics = runner.test()
    return unwrap(runner.model).state_dict(), metrics


VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    'checkpointed blocks': ({'with_cp': True}, ()),
    'batches of four images of different sizes': ({'batch_size': 4}, ()),
    'test-time augmentation': ({}, ('--tta',)),
}


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_way_of_evaluation_does_not_change_the_quantization(
    variant: str, plain: tuple[dict[str, torch.Tensor], dict], tiny_shapes: Path, tmp_path: Path
) -> None:
    settings, arguments = VARIANTS[variant]
    config = small_config('faster-rcnn', tiny_shapes, **settings)
    runner = small_runner(config, tmp_path, '--recipe', 'erq_w6a6', *arguments)
    metrics = runner.test()
    state = unwrap(runner.model).state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain[0].items())
    assert metrics['finite'] == metrics['instances'] > 0
    if variant == 'checkpointed blocks':
        assert metrics == plain[1]
    elif variant != 'test-time augmentation':  # which keeps more detections
        assert metrics['score'] == pytest.approx(plain[1]['score'], rel=0.2)


def test_half_precision_evaluates_what_full_precision_quantizes(tiny_shapes: Path, tmp_path: Path) -> None:
    """On a detector without suppression, which mmcv does not compute in half precision on a CPU."""
    states, scores = [], []
    for half in (False, True):
        folder = tmp_path / str(half)
        config = small_config('deformable-detr', tiny_shapes)
        runner = small_runner(config, folder, '--recipe', 'rtn_w8a8', '--cfg-options', f'test_cfg.fp16={half}')
        scores.append(runner.test()['score'])
        states.append(unwrap(runner.model).state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert scores[1] == pytest.approx(scores[0], rel=0.01)
    assert scores[1] != scores[0]


def test_the_idle_half_of_a_semi_supervised_detector_stays_float(tiny_shapes: Path, tmp_path: Path) -> None:
    config = small_config('soft-teacher', tiny_shapes)
    config.model.semi_test_cfg.predict_on = 'student'
    config.default_hooks.quantization = dict(type='ERQHook', recipe='rtn', overrides={'*.fc_cls': dict(w_bits=8)})
    runner = small_runner(config, tmp_path)
    runner.test()
    report, model = _report(runner), unwrap(runner.model)
    assert {layer.name.partition('.')[0] for layer in report.layers} == {'student'}
    idle = [layer for layer in report.float_layers if layer['name'].startswith('teacher.')]
    assert {layer['reason'] for layer in idle} == {'evaluation does not run teacher'}
    assert len(idle) == sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in model.teacher.modules()) + 10  # products
    assert not any(isinstance(module, (QuantLayer, Quantizer)) for module in model.teacher.modules())
    saved = torch.load(tmp_path / 'random.pth', weights_only=True)['state_dict']
    assert all(torch.equal(saved[f'teacher.{name}'], value) for name, value in model.teacher.state_dict().items())
    model.semi_test_cfg['predict_on'] = 'teacher'
    with pytest.raises(RuntimeError, match='evaluation runs teacher now, which is float'):
        runner.test()


def test_teacher_and_student_in_one_run_are_refused(tiny_shapes: Path, tmp_path: Path) -> None:
    config = small_config('soft-teacher', tiny_shapes)
    config.val_cfg = dict(type='TeacherStudentValLoop')
    with pytest.raises(ValueError, match='TeacherStudentValLoop evaluates two models'):
        small_runner(config, tmp_path, '--recipe', 'rtn').val()


def test_a_plain_checkpoint_in_a_semi_supervised_detector(tiny_shapes: Path, tmp_path: Path) -> None:
    """mmdet loads it into both halves, under other names than it has."""
    runner = small_runner(small_config('soft-teacher', tiny_shapes), tmp_path, '--recipe', 'rtn')
    state = torch.load(tmp_path / 'random.pth', weights_only=True)['state_dict']
    teacher = {k.removeprefix('teacher.'): v for k, v in state.items() if k.startswith('teacher.')}
    torch.save({'state_dict': teacher}, tmp_path / 'random.pth')
    assert runner.test()['images'] == 4
