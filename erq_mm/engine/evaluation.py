"""The code behind tools/test.py, for scripts that evaluate several recipes."""

import argparse
import copy
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.evaluation import MultiDatasetsEvaluator
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..calibration.recipes import FAST_RECIPES, RECIPES, resolve_recipe
from ..export.container import is_ours
from .backends import BACKENDS
from .checkpoints import CheckpointGuardHook
from .image_sets import leaf_datasets
from .model_kinds import ModelKind, kind_of_config
from .quantized_detector import is_quantized_detector
from .shipped_configs import is_shipped, shipped_config


def main(description: str | None = None, arguments: list[str] | None = None) -> dict[str, Any]:
    """Parse arguments, evaluate, return the metrics (several processes without GPUs end here instead)."""
    args = build_parser(description).parse_args(arguments)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    metrics = build_runner(args).test()
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == 'gloo':
        leave_together()
    return metrics


def leave_together() -> None:
    """End this process once all ranks are done, without the interpreter's teardown.

    gloo's threads outlive their group there and abort about every third run (torch 2.13), although all is written.
    """
    torch.distributed.barrier()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser: mmdet's arguments, --recipe and --backend."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or a name like mmdet::swin/... or erq_mm::swin/...')
    parser.add_argument('checkpoint', help='float checkpoint, or a quantized model of tools/quantize.py')
    parser.add_argument('--work-dir', help='folder for logs and reports (default: work_dirs/<config name>)')
    parser.add_argument('--out', help='.pkl file for the predictions, to be evaluated offline')
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', help='folder, inside work_dir/timestamp, for painted predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds each shown prediction stays')
    parser.add_argument(
        '--recipe',
        type=parse_recipe,
        metavar='NAME[_wXaY][_deploy]',
        help=f'quantize with this recipe ({", ".join(sorted(RECIPES))}), for example erq_w3a4; a bare name means w4a4; '
        'methods that train have a short version, for example qdrop_fast; with _deploy it has the grids of integer '
        'kernels, for example erq_w8a8_deploy',
    )
    parser.add_argument(
        '--backend',
        choices=sorted(BACKENDS),
        help='what runs the quantized model (default: simulated, in float); int8 are integers on the CPU',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='key=value pairs merged into the config, after --recipe and --backend',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def parse_recipe(text: str) -> dict[str, Any]:
    """Return recipe, w_bits and a_bits of `NAME[_wXaY][_deploy]`.

    Raises:
        argparse.ArgumentTypeError: unknown recipe, bits outside 2..8, or a method that cannot be deployed.
    """
    match = re.fullmatch(r'(?P<name>.+?)(?:_w(?P<w>\d+)a(?P<a>\d+))?(?P<deploy>_deploy)?', text)
    name, w_bits, a_bits = match['name'], int(match['w'] or 4), int(match['a'] or 4)
    if name not in RECIPES and name not in FAST_RECIPES:
        raise argparse.ArgumentTypeError(
            f'unknown recipe {name!r} in {text!r}; recipes are {sorted(RECIPES)} and {sorted(FAST_RECIPES)}'
        )
    for what, bits in (('weight', w_bits), ('activation', a_bits)):
        if not 2 <= bits <= 8:
            raise argparse.ArgumentTypeError(f'{what} bits must be 2 to 8, got {bits} in {text!r}')
    recipe = {'type': name, 'deploy': True} if match['deploy'] else name
    try:
        resolve_recipe(recipe)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return {'recipe': recipe, 'w_bits': w_bits, 'a_bits': a_bits}


def load_config(name: str) -> Config:
    """Return the config of a file, or of a `package::name`."""
    try:
        if is_shipped(name):
            return Config.fromfile(shipped_config(name))
        if '::' in name and not os.path.exists(name):
            return get_config(name)
        return Config.fromfile(name)
    except ImportError as error:
        raise _first_cause(error) from None


def _first_cause(error: BaseException) -> BaseException:
    """Return why an import of `custom_imports` failed: mmengine says only that it did."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return error


def add_recipe(config: Config, quantization: dict[str, Any]) -> None:
    """Put an ERQHook into the config, keeping what an existing one says about anything but recipe and bits."""
    hooks = config.setdefault('default_hooks', ConfigDict())
    if hooks.get('quantization') is None:
        hooks.quantization = dict(type='ERQHook')
    for key, value in quantization.items():  # in place: a copy would turn lazily imported types into classes
        hooks.quantization[key] = value


def add_backend(config: Config, name: str) -> None:
    """Put a BackendHook into the config; one of the same back end that is there keeps its options."""
    hooks = config.setdefault('default_hooks', ConfigDict())
    if (hooks.get('backend') or {}).get('backend') != name:
        hooks.backend = dict(type='BackendHook', backend=name)


def prepare_config(args: argparse.Namespace, config: Config) -> Config:
    """Return the config with the command line merged into it, as mmdet's tool does, our own options first."""
    kind = kind_of_config(config)
    config.launcher = args.launcher
    if 'default_scope' in config and config.default_scope is None:
        config.default_scope = kind.scope  # pure-Python configs have none, and name some types all the same
    if args.recipe is not None:
        add_recipe(config, args.recipe)
    if args.backend is not None:
        add_backend(config, args.backend)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    config.work_dir = args.work_dir or config.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    config.load_from = args.checkpoint
    if is_ours(args.checkpoint):
        expect_quantized(config, args.recipe)
    if args.show or args.show_dir:
        kind.show(config, args)
    if args.tta:
        add_test_time_augmentation(config, kind)
    return config


def expect_quantized(config: Config, recipe: dict[str, Any] | None) -> None:
    """Make the detector of a config one that a saved quantized model is loaded into.

    Raises:
        ValueError: a recipe is given as well.
    """
    if recipe is not None:
        raise ValueError(
            f'{config.load_from} is quantized already: leave --recipe out, or give the float checkpoint with it'
        )
    hooks = config.get('default_hooks') or {}
    if hooks.pop('quantization', None) is not None:
        print(f'{config.load_from} is quantized: the ERQHook of the config is not used')
    if not is_quantized_detector(config.model):
        config.model.detector = config.model.pop('type')
        config.model.type = 'QuantizedDetector'


def use_gloo_without_cuda(config: Config) -> None:
    """Let several processes work without GPUs: mmengine 0.10 asks for one whatever the backend."""
    if config.launcher != 'pytorch' or torch.cuda.is_available():
        return
    config.setdefault(
        'model_wrapper_cfg', ConfigDict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')


def build_runner(args: argparse.Namespace) -> Runner:
    """Return the runner that mmdet's tool would build, with the recipe in it."""
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out must be a .pkl or .pickle file, got {args.out}')
    setup_cache_size_limit_of_dynamo()
    config = prepare_config(args, load_config(args.config))
    use_gloo_without_cuda(config)
    runner = Runner.from_cfg(config) if 'runner_type' not in config else RUNNERS.build(config)
    runner.register_hook(CheckpointGuardHook())
    if args.out and isinstance(runner.test_evaluator, MultiDatasetsEvaluator):
        runner.register_hook(DumpPredictionsHook(kind_of_config(config).dump(args.out)))
    elif args.out:
        runner.test_evaluator.metrics.append(kind_of_config(config).dump(args.out))
    return runner


class DumpPredictionsHook(Hook):
    """Write all predictions of a test run beside an evaluator whose metrics are one per data set, and would drop them.

    Args:
        metric: that writes them.
    """

    def __init__(self, metric: BaseMetric) -> None:
        self.metric = metric

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        self.metric.process(data_batch, [sample.to_dict() for sample in outputs or ()])

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.metric.evaluate(len(runner.test_dataloader.dataset))


def add_test_time_augmentation(config: Config, kind: ModelKind) -> None:
    """Wrap the model and the pipelines as OpenMMLab's tools do: their defaults where the config names none."""
    if 'tta_model' not in config:
        config.tta_model = copy.deepcopy(kind.tta_model)
    for dataset in leaf_datasets(config.test_dataloader.dataset):
        dataset.pipeline = copy.deepcopy(config.get('tta_pipeline') or kind.with_flips(dataset.pipeline))
    model = copy.deepcopy(config.tta_model)
    model.module = config.model
    config.model = model
