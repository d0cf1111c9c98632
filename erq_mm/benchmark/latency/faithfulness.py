"""Whether a deployed detector is the simulated one: neck outputs and metrics of both, from one calibration."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.backends import BACKENDS
from ...engine.evaluation import build_parser, build_runner
from ...engine.hook import ERQHook, unwrap
from ..detectors import Detector

METRICS = {'box': 'coco/bbox_mAP', 'mask': 'coco/segm_mAP'}


@dataclass(frozen=True)
class Faithfulness:
    """A deployed detector against its simulation.

    Attributes:
        simulated, deployed: AP in percent, by `box` and `mask`.
        largest_difference: of the neck's outputs, as a share of the largest magnitude of the same output; the worst of
            all levels and images compared.
        sqnr_db: of the worst level, over all images compared.
        summary: what the back end did.
    """

    simulated: dict[str, float]
    deployed: dict[str, float]
    largest_difference: float
    sqnr_db: float
    summary: str


def compare_with_simulation(
    detector: Detector,
    recipe: str,
    work_dir: Path,
    backend: str = 'int8',
    images: int = 16,
    options: tuple[str, ...] = (),
    **backend_options: Any,
) -> Faithfulness:
    """Quantize a detector, evaluate it, put it on a back end, and evaluate it again.

    Args:
        detector: a demo detector or the user's.
        recipe: as of `--recipe`, for example `erq_w4a8_deploy`.
        work_dir: for logs and the report.
        images: of how many test images, the last ones, the neck's outputs are compared.
        options: further `--cfg-options`, for example `default_hooks.quantization.scope=all`.
        backend_options: of the back end.
    """
    line = [detector.config, detector.checkpoint, '--work-dir', str(work_dir), '--recipe', recipe]
    settings = [*detector.options, *options]
    runner = build_runner(build_parser().parse_args([*line, *(['--cfg-options', *settings] if settings else [])]))
    model = unwrap(runner.model)
    with _recorded_levels(model.neck, images) as simulated_levels:
        simulated = runner.test()
    quantization = next(hook for hook in runner.hooks if isinstance(hook, ERQHook))
    with quantization.deliberate_change(model):
        summary = BACKENDS[backend](model, runner.cfg, **backend_options)
    with _recorded_levels(model.neck, images) as levels:
        deployed = runner.test_loop.run()
    difference, sqnr = compare_levels(levels, simulated_levels)
    return Faithfulness(_percent(simulated), _percent(deployed), difference, sqnr, summary)


def compare_levels(found: list[tuple[Tensor, ...]], wanted: list[tuple[Tensor, ...]]) -> tuple[float, float]:
    """Return the largest difference as a share of the largest magnitude, and the least SQNR in dB.

    Args:
        found, wanted: per image, one tensor per level.
    """
    if len(found) != len(wanted):
        raise ValueError(f'{len(found)} and {len(wanted)} images cannot be compared')
    largest, ratios = 0.0, []
    for ours, theirs in zip(zip(*found, strict=True), zip(*wanted, strict=True), strict=True):
        pairs = list(zip(ours, theirs, strict=True))
        largest = max(largest, *(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
        noise = sum(float((a - b).double().square().sum()) for a, b in pairs)
        signal = sum(float(b.double().square().sum()) for _, b in pairs)
        ratios.append(math.inf if noise == 0 else 10 * math.log10(signal / noise))
    return largest, min(ratios)


@contextmanager
def _recorded_levels(neck: nn.Module, images: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Keep the outputs of the neck's last calls while the block runs: calibration, which runs it too, comes first."""
    levels: list[tuple[Tensor, ...]] = []

    def keep(_: nn.Module, __: Any, output: tuple[Tensor, ...]) -> None:
        levels.append(tuple(level.detach().clone(memory_format=torch.contiguous_format) for level in output))
        del levels[:-images]

    handle = neck.register_forward_hook(keep)
    try:
        yield levels
    finally:
        handle.remove()


def _percent(metrics: dict[str, float]) -> dict[str, float]:
    return {name: 100 * metrics[key] for name, key in METRICS.items() if key in metrics}
