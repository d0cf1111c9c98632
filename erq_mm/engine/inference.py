"""Quantize a model that no Runner evaluates: that of `init_detector` or `DetInferencer`, or a classifier."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from ..calibration.report import Report, check_writable
from .hook import ERQHook, unwrap
from .model_kinds import kind_of


def quantize_detector_(model: nn.Module, config: Config | None = None, **settings: Any) -> Report:
    """Quantize a float detector or classifier in place, as `ERQHook` does when it is evaluated, and return the report.

    `init_detector` and `DetInferencer` run no hooks, so a config with an `ERQHook` gives them the float model:

        model = init_detector(config, checkpoint)
        quantize_detector_(model)                         # what the config's ERQHook says
        quantize_detector_(inferencer.model, recipe='erq', w_bits=4, a_bits=4)

    Args:
        model: with its float checkpoint loaded.
        config: with the data sets to calibrate on; default `model.cfg`, which both functions set.
        settings: arguments of `ERQHook`, in the place of those that the config's hook has. `report` is where the report
            is written; nothing is without.

    Raises:
        ValueError: no config, or neither a hook in it nor settings; and as `ERQHook`.
    """
    model = unwrap(model)
    config = getattr(model, 'cfg', None) if config is None else config
    if config is None:
        raise ValueError(
            f'{type(model).__name__} has no `cfg` that says where its data are: pass config=Config.fromfile(...)'
        )
    configured = dict((config.get('default_hooks') or {}).get('quantization') or {})
    if not configured and not settings:
        raise ValueError("the config has no default_hooks.quantization: say how, e.g. recipe='erq', w_bits=4, a_bits=4")
    configured.pop('type', None)
    hook = ERQHook(**configured | settings)
    init_default_scope(config.get('default_scope') or kind_of(model).scope)
    if hook.report_path is not None:
        check_writable(Path(hook.report_path))
    hook.quantization.prepare(model, config)
    report, _ = hook.quantization.run(model)
    if hook.report_path is not None:
        report.write(Path(hook.report_path))
    return report
