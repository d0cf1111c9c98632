"""What runs a quantized detector: back ends by name, and the hook that applies one before the first batch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from inspect import signature
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..export.integer import deploy_
from ..nn.layers import QuantLayer
from .graph_backends import register_graph_backends
from .hook import ERQHook, unwrap
from .roi_align import speed_up_roi_align_

Backend = Callable[..., str]
BACKENDS: dict[str, Backend] = {}


def register_backend(name: str) -> Callable[[Backend], Backend]:
    """Register a back end: a function (model, config, **options) -> what it did, in words.

    It changes the quantized detector in place so that its `test_step` runs on the back end. Its options are those of
    `BackendHook`.

    Raises:
        ValueError: the name is taken.
    """

    def register(backend: Backend) -> Backend:
        if name in BACKENDS:
            raise ValueError(f'back end {name!r} is registered already, as {BACKENDS[name].__name__}')
        BACKENDS[name] = backend
        return backend

    return register


@register_backend('simulated')
def simulate(model: nn.Module, config: Config, fast_roi_align: bool = False) -> str:
    """Leave the float simulation as it is.

    Args:
        fast_roi_align: see `speed_up_roi_align_`.
    """
    return f'simulated in float32{_roi_align(model, fast_roi_align)}'


@register_backend('int8')
def run_as_integers(model: nn.Module, config: Config, fast_roi_align: bool = True, wide_weights: str = 'refuse') -> str:
    """Run quantized layers as integers inside torch, see `erq_mm.deploy_`.

    Args:
        fast_roi_align: see `speed_up_roi_align_`.
        wide_weights: as of `deploy_`.

    Raises:
        ValueError: the model is float, or not on the CPU; and as `deploy_`.
    """
    _check_on_cpu(model)
    aligned = _roi_align(model, fast_roi_align)
    # mmcv's operators read the memory of their inputs as if it were contiguous
    channels_last = not any(type(module).__module__.startswith('mmcv.ops') for module in model.modules())
    deployment = deploy_(model, wide_weights, channels_last)
    if not deployment.integer:
        MMLogger.get_current_instance().warning(f'back end int8 runs nothing as integers: {deployment}')
    return f'{deployment}{aligned}'


def _check_on_cpu(model: nn.Module) -> None:
    devices = {str(parameter.device) for parameter in model.parameters() if parameter.device.type != 'cpu'}
    if devices:
        raise ValueError(
            f"back end 'int8' runs on CPUs and the model is on {sorted(devices)[0]}: hide the GPUs from the process "
            "(CUDA_VISIBLE_DEVICES='')"
        )


def _roi_align(model: nn.Module, wanted: bool) -> str:
    replaced = speed_up_roi_align_(model) if wanted else []
    return f'\n{len(replaced)} RoIAlign run as sums of embeddings' if replaced else ''


register_graph_backends(register_backend, _roi_align)


@HOOKS.register_module()
class BackendHook(Hook):
    """Put the model on a back end before the first batch of a run, after it has been quantized.

    An `ERQHook` of the same run quantizes first; a model that was loaded quantized needs none. What the back end did is
    logged, and added to the notes of the quantization's report.

    Args:
        backend: a name of `BACKENDS`.
        options: of the back end.

    Raises:
        ValueError: an unknown back end or option.
    """

    priority = 'BELOW_NORMAL'  # after ERQHook

    def __init__(self, backend: str = 'simulated', **options: Any) -> None:
        if backend not in BACKENDS:
            raise ValueError(f'unknown back end {backend!r}; back ends are {sorted(BACKENDS)}')
        known = list(signature(BACKENDS[backend]).parameters)[2:]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f'back end {backend!r} has no option {unknown}; it has {known}')
        self.backend, self.options, self.summary = backend, options, None

    def before_train(self, runner: Runner) -> None:
        raise RuntimeError(
            'BackendHook is for evaluation: no back end can train. Remove default_hooks.backend from the config'
        )

    def before_test(self, runner: Runner) -> None:
        self._check(runner)

    def before_val(self, runner: Runner) -> None:
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        """Find a float model early, while nothing has run."""
        if self.backend != 'simulated' and not any(_quantizing_hooks(runner)):
            self._check_quantized(unwrap(runner.model))

    def _check_quantized(self, model: nn.Module) -> None:
        if self.summary is None and not any(isinstance(module, QuantLayer) for module in model.modules()):
            raise ValueError(
                f'back end {self.backend!r} runs quantized models and this one is float: quantize it (--recipe '
                'erq_w4a8, or default_hooks.quantization), or give a quantized file'
            )

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train') -> None:
        if self.summary is not None:
            return
        model = unwrap(runner.model)
        if self.backend != 'simulated':
            self._check_quantized(model)
        with ExitStack() as stack:
            for hook in _quantizing_hooks(runner):
                stack.enter_context(hook.deliberate_change(model))
            self.summary = BACKENDS[self.backend](model, runner.cfg, **self.options)
        note = f'back end {self.backend}: {self.summary}'
        MMLogger.get_current_instance().info(note)
        for hook in _quantizing_hooks(runner):
            hook.add_notes(runner, note.splitlines())


def _quantizing_hooks(runner: Runner) -> Iterator[ERQHook]:
    return (hook for hook in runner.hooks if isinstance(hook, ERQHook))
