"""What calibration and the quantized forward cost: time, memory, and the exactness of reparameterization.

    python tools/measure_cost.py                                  # Mask R-CNN Swin-T, random weights, 800x1216
    python tools/measure_cost.py --image photo.jpg --recipe repq --threads 2

Times are ratios to float forwards of the same detector, measured alternately in one run, on a GPU where there is one.
Memory is measured in processes of its own: what torch allocated on the GPU, or the size of the process.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table
from torch import nn

import erq_mm
import erq_mm.engine  # noqa: F401
from erq_mm.benchmark.latency.subjects import unsettle_norms_
from erq_mm.calibration.memory import PeakMemory
from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import repq, resolve_recipe
from erq_mm.calibration.steps import step_of, step_options
from erq_mm.calibration.stopwatch import Stopwatch
from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.evaluation import load_config

CONFIG = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--image', help='a picture; default: generated noise')
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1216), metavar=('H', 'W'))
    parser.add_argument('--recipe', default='erq', choices=sorted(erq_mm.RECIPES))
    parser.add_argument('--w-bits', type=int, default=4)
    parser.add_argument('--a-bits', type=int, default=4)
    parser.add_argument('--scope', default='linears')
    parser.add_argument('--repeat', type=int, default=5, help='timed forwards of each kind')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--peak-of', type=int, metavar='IMAGES', help='only print the memory peaks as JSON')
    parser.add_argument('--json', type=Path, help='also write the figures here')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of is not None:
        print(json.dumps(memory_peaks(args, args.peak_of)))
        return
    figures = measure(args)
    table = Table(
        title=f'{args.recipe} W{args.w_bits}A{args.a_bits}, {args.size[0]}x{args.size[1]}, {args.threads} threads'
    )
    table.add_column('figure')
    table.add_column('value', justify='right')
    for name, value in figures.items():
        table.add_row(name, f'{value:.3g}')
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return all figures by name."""
    model, image = build_model(args.config).to(args.device), build_image(args, 0)
    forward(model, image)  # warm-up
    before = [seconds_of(forward, model, image) for _ in range(3)]
    quantized = copy.deepcopy(model)
    report = quantize(quantized, [image], args)
    pairs = [(seconds_of(forward, model, image), seconds_of(forward, quantized, image)) for _ in range(args.repeat)]
    float_seconds = statistics.median([*before, *(pair[0] for pair in pairs)])
    peaks = {count: peaks_in_a_process(count) for count in (1, 8)}
    return {
        'float forward, s': float_seconds,
        'calibration, s': report.seconds['total'],
        'calibration, float forwards': report.seconds['total'] / float_seconds,
        **{f'  {step}, float forwards': s / float_seconds for step, s in report.seconds.items() if step != 'total'},
        'quantized / float forward': statistics.median(q / f for f, q in pairs),
        'calibration peak above float peak, 1 image, GB': peaks[1]['above_float'] / 1e9,
        'calibration peak above float peak, 8 images, GB': peaks[8]['above_float'] / 1e9,
        'calibration peak, 8 images / 1 image': peaks[8]['peak'] / peaks[1]['peak'],
        'reparameterized / original FPN outputs, relative difference': reparameterization_difference(args.config),
    }


def build_model(config: str) -> nn.Module:
    """Return the detector with random weights whose LayerNorms are not trivial."""
    init_default_scope('mmdet')
    cfg = load_config(config)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    unsettle_norms_(model)
    model.eval()
    return model


def build_image(args: argparse.Namespace, index: int) -> dict[str, Any]:
    """Return a packed image of the wanted size."""
    height, width = args.size
    if args.image:
        picture = cv2.resize(cv2.imread(args.image), (width, height))
        picture = np.roll(picture, 97 * index, axis=1)
    else:
        coarse = np.random.default_rng(index).integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    sample = DetDataSample(
        metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0), img_id=index)
    )
    return {'inputs': torch.from_numpy(picture.transpose(2, 0, 1).copy()), 'data_samples': sample}


@torch.no_grad()
def forward(model: nn.Module, image: dict[str, Any]) -> None:
    """Run the detector as its evaluation does."""
    model.test_step(pseudo_collate([copy.deepcopy(image)]))


def seconds_of(function: Any, model: nn.Module, *arguments: Any) -> float:
    """Return how long `function(model, *arguments)` takes, until its results are there."""
    stopwatch = Stopwatch(model, {})
    with stopwatch.measure('forward'):
        function(model, *arguments)
    return stopwatch.seconds['forward']


def quantize(model: nn.Module, images: list[dict[str, Any]], args: argparse.Namespace) -> erq_mm.Report:
    """Calibrate as the hook does."""
    run = DetectorTask(images, with_masks=args.scope == 'all')
    return erq_mm.quantize_(model, run, args.recipe, args.w_bits, args.a_bits, args.scope)


def memory_peaks(args: argparse.Namespace, images: int) -> dict[str, int]:
    """Return high-water marks in bytes: of float forwards, and of calibration."""
    model, pictures = build_model(args.config).to(args.device), [build_image(args, i) for i in range(images)]
    with PeakMemory(model) as memory:
        for picture in pictures:
            forward(model, picture)
    float_peak = memory.peak_bytes
    peak = quantize(model, pictures, args).peak_memory_bytes
    return {'float_peak': float_peak, 'peak': peak, 'above_float': peak - float_peak}


def peaks_in_a_process(images: int) -> dict[str, int]:
    command = [sys.executable, *sys.argv, '--peak-of', str(images)]
    # large blocks go back to the system when freed: the peaks are of memory in use, not of the allocator's gaps
    environment = os.environ | {'MALLOC_MMAP_THRESHOLD_': '262144'}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def reparameterization_difference(config: str) -> float:
    """Return the largest difference of FPN outputs relative to their maximum, at sizes that pad."""
    model = build_model(config)
    changed = copy.deepcopy(model)
    images = [torch.randn(1, 3, height, width) for height, width in ((224, 352), (160, 416), (288, 192))]
    plan = plan_quantization(changed, resolve_recipe('repq'), 4, 4, 'linears', {})
    calibration = swap_for_calibration(changed, plan, lambda m: [m.extract_feat(x) for x in images], 0, None)
    for step in repq().steps[:2]:
        step_of(step).run(calibration, **step_options(step))
    pairs = [(a, b) for x in images for a, b in zip(changed.extract_feat(x), model.extract_feat(x), strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


if __name__ == '__main__':
    main()
