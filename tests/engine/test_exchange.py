"""Hooks that exchange weights at evaluation: what evaluation runs is quantized, and it stays so."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner, TestLoop
from torch import nn

from erq_mm.engine import hook as hook_module
from erq_mm.engine import quantization as quantization_module
from erq_mm.engine.hook import ERQHook, unwrap

from .zoo import small_config, small_runner

FACTOR = 1.25  # averaged weights are the trained ones times this
QKV = 'backbone.stages.0.blocks.0.attn.w_msa.qkv'


@pytest.fixture
def quantizing(tiny_shapes: Path, tmp_path: Path) -> Callable[..., Runner]:
    """Return a function that builds a runner which quantizes a small detector and has the given further hooks."""

    def make(*hooks: Hook, priority: str = 'NORMAL') -> Runner:
        runner = small_runner(small_config('faster-rcnn', tiny_shapes), tmp_path, '--recipe', 'rtn_w4a8')
        for hook in hooks:
            runner.register_hook(hook, priority=priority)
        return runner

    return make


@pytest.fixture(scope='module')
def wanted(tiny_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The state of the detector when the averaged weights are loaded and quantized, without any hook."""
    folder = tmp_path_factory.mktemp('wanted')
    runner = small_runner(small_config('faster-rcnn', tiny_shapes), folder, '--recipe', 'rtn_w4a8')
    checkpoint = torch.load(folder / 'random.pth', weights_only=True)
    torch.save({'state_dict': _averaged(checkpoint['state_dict'])}, folder / 'random.pth')
    runner.test()
    return _state(runner)


def _averaged(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value * FACTOR if value.is_floating_point() else value for name, value in state.items()}


def _state(runner: Runner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in unwrap(runner.model).state_dict().items()}


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Averaging(EMAHook):
    """mmengine's hook, with averaged weights that differ from the trained ones."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        self.ema_model.module.load_state_dict(_averaged(self.ema_model.module.state_dict()))


class Own(Hook):
    """As users write it: put averaged weights in before the evaluation, in one of several ways."""

    def __init__(self, way: str) -> None:
        self.way = way

    def before_test_epoch(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if any(hasattr(module, 'weight_scale') for module in model.modules()):
            return  # they are in, and quantized
        averaged = _averaged(model.state_dict())
        if self.way == 'load_state_dict':
            model.load_state_dict(averaged)
        elif self.way == 'copy_':
            for name, value in model.state_dict().items():
                value.copy_(averaged[name])
        else:  # new parameters in place of the old ones
            for name in dict(model.named_parameters()):
                parent, _, child = name.rpartition('.')
                setattr(model.get_submodule(parent), child, nn.Parameter(averaged[name]))
            for name, buffer in model.named_buffers():
                buffer.copy_(averaged.get(name, buffer))


@pytest.mark.parametrize('priority', ['VERY_HIGH', 'NORMAL', 'LOWEST'])
def test_averaged_weights_are_quantized_and_stay(priority: str, quantizing, wanted) -> None:
    runner = quantizing(Averaging(update_buffers=True), priority=priority)
    first = runner.test()
    assert _same(_state(runner), wanted)
    assert not any(isinstance(hook, EMAHook) for hook in runner.hooks)
    assert runner.test() == runner.test_loop.run() == first
    assert _same(_state(runner), wanted)


def test_validation_before_the_test(quantizing, wanted) -> None:
    runner = quantizing(Averaging(update_buffers=True))
    assert runner.val() == runner.test()
    assert _same(_state(runner), wanted)


def test_other_hooks_go_on_when_averaging_is_retired(quantizing) -> None:
    class Count(Hook):
        batches = 0

        def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            self.batches += 1

    before, after = Count(), Count()
    runner = quantizing(before, EMAHook(), after)
    runner.test()
    assert (before.batches, after.batches) == (4, 4)
    (log,) = Path(runner.log_dir).glob('*.log')
    assert log.read_text().count('EMAHook put in the averaged weights') == 1


@pytest.mark.parametrize(
    ('way', 'priority'), [('load_state_dict', 'LOWEST'), ('copy_', 'VERY_HIGH'), ('parameters', 'NORMAL')]
)
def test_hooks_of_the_user(way: str, priority: str, quantizing, wanted) -> None:
    runner = quantizing(Own(way), priority=priority)
    first = runner.test()
    assert _same(_state(runner), wanted)
    assert runner.test() == first


def test_a_model_that_a_hook_puts_in_is_the_one_quantized(quantizing, wanted) -> None:
    class PutIn(Hook):
        def before_run(self, runner: Runner) -> None:
            self.averaged = getattr(self, 'averaged', None) or copy.deepcopy(runner.model)

        def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
            self.averaged.load_state_dict(_averaged(checkpoint['state_dict']))

        def before_test_epoch(self, runner: Runner) -> None:
            self.trained, runner.model = runner.model, self.averaged

        def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
            runner.model = self.trained

    hook = PutIn()
    runner = quantizing(hook)
    first = runner.test()
    assert _same(hook.averaged.state_dict(), wanted)
    assert runner.test() == first


def test_weights_put_back_are_found_in_the_next_run(quantizing) -> None:
    class PutBack(Hook):
        def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
            self.backup = checkpoint['state_dict']

        def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
            for name, value in unwrap(runner.model).state_dict().items():
                if name in self.backup:
                    value.copy_(self.backup[name])

    runner = quantizing(PutBack())
    runner.test()
    with pytest.raises(RuntimeError, match=rf'steps off their grid: .*{QKV}.weight.* changed the weights'):
        runner.test()


def test_a_float_checkpoint_put_back_is_refused(quantizing) -> None:
    class PutBack(Hook):
        def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
            self.backup = checkpoint['state_dict']

        def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
            unwrap(runner.model).load_state_dict(self.backup)

    with pytest.raises(ValueError, match='is quantized and the checkpoint is not'):
        quantizing(PutBack()).test()


def test_weights_exchanged_in_the_first_iteration_are_found_in_it(quantizing) -> None:
    class Late(Hook):
        def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            unwrap(runner.model).get_submodule(QKV).weight.data.mul_(1.01)

    with pytest.raises(RuntimeError, match=rf'1 tensors are not what .* steps off their grid: {QKV}.weight'):
        quantizing(Late(), priority='LOWEST').test()


def test_iteration_times_leave_the_calibration_out(quantizing, monkeypatch) -> None:
    quantize = quantization_module.quantize_

    def slow(*args: Any, **keywords: Any) -> Any:
        time.sleep(2)
        return quantize(*args, **keywords)

    monkeypatch.setattr(quantization_module, 'quantize_', slow)
    runner = quantizing()
    runner.test()
    times, _ = runner.message_hub.get_scalar('test/time').data
    assert len(times) == 4
    assert max(times) < 2


def test_a_loop_that_calls_no_hook_before_its_batches_is_found(quantizing) -> None:
    class Silent(TestLoop):
        def run_iter(self, idx: int, data_batch: Any) -> None:
            self.evaluator.process(self.runner.model.test_step(data_batch), data_batch)

    runner = quantizing()
    runner._test_loop = Silent(runner, runner.test_dataloader, runner.test_evaluator)
    with pytest.raises(RuntimeError, match='the metrics are those of the float model'):
        runner.test()


def test_a_rank_without_a_batch_takes_part_and_keeps_its_model(quantizing, monkeypatch) -> None:
    """Fewer images than processes: the loop never comes to a batch, but the others broadcast what they quantized."""
    runner = quantizing(Averaging(update_buffers=True))
    monkeypatch.setattr(hook_module, '_loader', lambda *_: [])
    runner.build_test_loop(runner._test_loop)
    runner.call_hook('before_run')
    runner.load_or_resume()
    for stage in ('before_test', 'before_test_epoch'):
        runner.call_hook(stage)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ERQHook))
    assert hook.report is not None
    assert not any(hasattr(module, 'weight_scale') for module in runner.model.modules())
