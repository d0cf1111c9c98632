"""Back ends in real evaluations: what int8 runs, that it is the simulated model, and the guard around it."""

from types import SimpleNamespace

import mmengine
import pycocotools.mask as mask_util
import pytest
import torch
from mmcv.ops import RoIAlign
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from torch import nn

import erq_mm
from erq_mm.engine import backends
from erq_mm.engine.backends import BACKENDS, BackendHook, register_backend
from erq_mm.engine.evaluation import add_backend
from erq_mm.engine.hook import unwrap
from erq_mm.engine.roi_align import TableRoIAlign
from erq_mm.export.integer import IntegerConv2d, IntegerLayer, IntegerLinear, operators
from erq_mm.nn.layers import QuantLayer

CONFIDENT = 0.3


def count(model: nn.Module, kind: type | tuple[type, ...]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def agreement(wanted: dict, found: dict) -> torch.Tensor:
    """Return the IoU of boxes and of masks, the less of both, of confident detections with their best counterparts."""
    wanted, found = wanted['pred_instances'], found['pred_instances']
    boxes = bbox_overlaps(torch.as_tensor(wanted['bboxes']), torch.as_tensor(found['bboxes']))
    masks = torch.as_tensor(mask_util.iou(wanted['masks'], found['masks'], [0] * len(found['masks'])))
    same = torch.as_tensor(wanted['labels'])[:, None] == torch.as_tensor(found['labels'])
    overlaps = torch.where(same, torch.minimum(boxes.to(masks.dtype), masks), 0.0)
    return overlaps.amax(1)[torch.as_tensor(wanted['scores']) > CONFIDENT]


def test_int8_evaluates_the_simulated_detector(make_runner, read_report, tmp_path) -> None:
    options = ('--recipe', 'rtn_w4a8_deploy'), ('default_hooks.quantization.scope=all',)
    dumps = [str(tmp_path / f'{name}.pkl') for name in ('simulated', 'int8')]
    make_runner(*options[0], '--work-dir', str(tmp_path / 'simulated'), '--out', dumps[0], options=options[1]).test()
    runner = make_runner(*options[0], '--backend', 'int8', '--out', dumps[1], options=options[1])
    runner.test()
    model, report = unwrap(runner.model), read_report()
    assert count(model, QuantLayer) == 0
    assert count(model, IntegerLayer) == len(report['layers'])
    assert count(model, IntegerConv2d) == 1 + 8 + 3 + 4 + 1
    assert count(model, IntegerLinear) > 40
    assert count(model, TableRoIAlign) == 8 and not any(type(m) is RoIAlign for m in model.modules())
    assert all(m.channels_last for m in model.modules() if isinstance(m, IntegerConv2d))
    total = len(report['layers'])
    assert f'back end int8: {total} of {total} quantized layers and products run as integers' in report['notes']
    both = [mmengine.load(dump) for dump in dumps]
    for first, second in (both, both[::-1]):
        overlaps = torch.cat([agreement(*pair) for pair in zip(first, second, strict=True)])
        # a code on a rounding boundary may go either way, and one region win over another that shows the same
        assert len(overlaps) > 20 and float(overlaps.median()) > 0.98 and float((overlaps > 0.9).float().mean()) > 0.9


@pytest.mark.slow
def test_fast_roi_align_alone_changes_no_metric(make_runner) -> None:
    wanted = make_runner().test()
    runner = make_runner('--backend', 'simulated', options=('default_hooks.backend.fast_roi_align=True',))
    assert runner.test() == wanted
    assert count(runner.model, TableRoIAlign) == 8


def test_float_model_is_refused_before_anything_runs(make_runner, monkeypatch) -> None:
    runner = make_runner('--backend', 'int8')
    monkeypatch.setattr(type(unwrap(runner.model)), 'test_step', lambda *_: pytest.fail('ran'))
    with pytest.raises(ValueError, match="back end 'int8' runs quantized models and this one is float: quantize it"):
        runner.test()


def test_asymmetric_8_bit_weights_are_refused_with_the_way_out_or_simulated(make_runner) -> None:
    with pytest.raises(ValueError, match='do not fit int8: .*deploy=True'):
        make_runner('--recipe', 'rtn_w8a8', '--backend', 'int8').test()
    option = 'default_hooks.backend.wide_weights=simulate'
    runner = make_runner('--recipe', 'rtn_w8a8', '--backend', 'int8', options=(option,))
    runner.test()
    assert count(unwrap(runner.model), QuantLayer) > 0


def test_a_change_after_deployment_is_found(make_runner) -> None:
    runner = make_runner('--recipe', 'rtn_w4a8', '--backend', 'int8')
    runner.test()
    model = unwrap(runner.model)
    codes = next(module.codes for module in model.modules() if isinstance(module, IntegerLayer))
    codes[0] += 1
    runner._has_loaded = True
    with pytest.raises(RuntimeError, match='are not what quantization made of them: .*codes'):
        runner.test_loop.run()


def test_a_change_before_deployment_is_found(make_runner, monkeypatch) -> None:
    runner = make_runner('--recipe', 'rtn_w4a8', '--backend', 'int8')
    hook = next(hook for hook in runner.hooks if isinstance(hook, BackendHook))
    before_iter = BackendHook._before_iter

    def meddle(self: BackendHook, runner, *arguments: object, **options: object) -> None:
        with torch.no_grad():
            next(m for m in unwrap(runner.model).modules() if isinstance(m, QuantLayer)).weight.mul_(1.001)
        before_iter(self, runner, *arguments, **options)

    monkeypatch.setattr(BackendHook, '_before_iter', meddle)
    with pytest.raises(RuntimeError, match='are not what quantization made of them'):
        runner.test()
    assert hook.summary is None


def test_loaded_quantized_models_need_no_quantizing_hook(make_runner) -> None:
    runner = make_runner('--backend', 'int8')
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4))
    erq_mm.quantize_(model, lambda m: m(torch.randn(20, 8)), 'rtn', 4, 8)
    runner.model = model
    hook = next(hook for hook in runner.hooks if isinstance(hook, BackendHook))
    hook.before_test(runner)
    hook.before_test_iter(runner, 0)
    assert isinstance(model[1], IntegerLinear) and hook.summary.startswith('1 of 1 quantized layers')
    hook.before_test_iter(runner, 1)  # once


def test_mmcv_operators_get_contiguous_features() -> None:
    """mmcv reads the memory of its inputs as if it were contiguous, so one of its modules keeps the usual order."""
    model = nn.ModuleDict({'conv': nn.Conv2d(3, 4, 1), 'roi': RoIAlign(7, 0.25, pool_mode='max')})
    run = lambda m: m['roi'](m['conv'](torch.randn(1, 3, 8, 8)), torch.tensor([[0.0, 1, 1, 20, 20]]))  # noqa: E731
    erq_mm.quantize_(model, run, 'rtn', 4, 8, scope='all')
    BACKENDS['int8'](model, Config())
    assert not model['conv'].channels_last


def test_names_and_options_are_checked_and_back_ends_can_be_added(monkeypatch) -> None:
    monkeypatch.setattr(backends, 'BACKENDS', dict(BACKENDS))
    with pytest.raises(ValueError, match="unknown back end 'tpu'; back ends are .'int8', "):
        BackendHook('tpu')
    with pytest.raises(ValueError, match=r"back end 'int8' has no option \['threads'\]; it has \['fast_roi_align'"):
        BackendHook('int8', threads=2)
    register_backend('mine')(lambda model, config, precision='f32': precision)
    assert BackendHook('mine', precision='bf16').options == {'precision': 'bf16'}
    with pytest.raises(ValueError, match="back end 'mine' is registered already"):
        register_backend('mine')(lambda model, config: '')


def test_command_line_keeps_the_options_of_a_configured_back_end() -> None:
    config = Config({'default_hooks': {'backend': {'type': 'BackendHook', 'backend': 'int8', 'fast_roi_align': False}}})
    add_backend(config, 'int8')
    assert config.default_hooks.backend.fast_roi_align is False
    add_backend(config, 'simulated')
    assert config.default_hooks.backend == {'type': 'BackendHook', 'backend': 'simulated'}


def test_nothing_that_runs_as_integers_is_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(operators, 'NAMES', ('qlinear_of_tomorrow',))
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4))
    erq_mm.quantize_(model, lambda m: m(torch.randn(20, 8)), 'rtn', 4, 8)
    warnings = []
    monkeypatch.setattr(backends.MMLogger, 'get_current_instance', lambda: SimpleNamespace(warning=warnings.append))
    assert BACKENDS['int8'](model, Config()).startswith('0 of 1 quantized layers')
    assert 'runs nothing as integers' in warnings[0] and 'lacks the operators' in warnings[0]


def test_training_is_refused() -> None:
    with pytest.raises(RuntimeError, match='no back end can train'):
        BackendHook('int8').before_train(None)


def test_gpu_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='runs on CPUs and the model is on meta: hide the GPUs'):
        BACKENDS['int8'](nn.Linear(2, 2, device='meta'), Config())
