"""What calibrating a classifier of timm costs: time in float forwards of all its images, and memory.

    python tools/measure_classifier_cost.py                                # DeiT-S, random weights, erq W4A4, 32 images
    python tools/measure_classifier_cost.py --model vit_small_patch16_224 --recipe repq --threads 1

Every calibration runs between two passes of the float model over the same images; their mean is the unit. Memory is
measured in processes of its own, for the images asked for and for eight times as many.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import erq_mm
import erq_mm.engine  # noqa: F401  (declares what timm's torchvision lacks)
from erq_mm.benchmark.latency.subjects import unsettle_norms_
from erq_mm.calibration.memory import PeakMemory

MORE = 8  # times as many images, for the second peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='deit_small_patch16_224', help='of timm (default: %(default)s)')
    parser.add_argument('--images', type=int, default=32)
    parser.add_argument('--batch', type=int, default=8, help='images of one forward (default: %(default)s)')
    parser.add_argument('--recipe', default='erq', choices=sorted(erq_mm.RECIPES))
    parser.add_argument('--w-bits', type=int, default=4)
    parser.add_argument('--a-bits', type=int, default=4)
    parser.add_argument('--repeat', type=int, default=3, help='calibrations')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--peak-of', type=int, metavar='IMAGES', help='only print the memory above the float peak')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of is not None:
        print(peak_above_float(args, args.peak_of))
        return
    table = Table(title=f'{args.model}, {args.recipe} W{args.w_bits}A{args.a_bits}, {args.threads} threads')
    table.add_column('figure')
    table.add_column('value', justify='right')
    for name, value in measure(args).items():
        table.add_row(name, value)
    Console(width=120).print(table)


def measure(args: argparse.Namespace) -> dict[str, str]:
    """Return all figures by name."""
    model, batches = build(args, args.images)
    forward(model, batches[:1])  # warm-up
    ratios, seconds = [], {}
    for _ in range(args.repeat):
        changed = copy.deepcopy(model)
        before = seconds_of(lambda: forward(model, batches))
        taken = seconds_of(lambda changed=changed: seconds.update(calibrate(changed, batches, args).seconds))
        after = seconds_of(lambda: forward(model, batches))
        ratios.append(2 * taken / (before + after))
    figures = {f'  {step}, s': f'{value:.1f}' for step, value in seconds.items() if step != 'total'}
    peaks = {count: peak_in_a_process(count) for count in (args.images, MORE * args.images)}
    return {
        f'calibration on {args.images} images, in float forwards of them': f'{statistics.median(ratios):.2f} '
        f'({min(ratios):.2f} to {max(ratios):.2f})',
        **figures,
        **{f'peak above the float forward, {count} images, MB': f'{peak / 2**20:.0f}' for count, peak in peaks.items()},
    }


def build(args: argparse.Namespace, images: int) -> tuple[nn.Module, list[Tensor]]:
    """Return the model with random weights whose LayerNorms are not trivial, and batches of noise."""
    if images % args.batch:
        raise SystemExit(f'--images {images} is no multiple of --batch {args.batch}')
    import timm  # behind erq_mm.engine

    torch.manual_seed(0)
    model = timm.create_model(args.model)
    unsettle_norms_(model)
    size = model.default_cfg['input_size']
    return model.eval(), [torch.randn(args.batch, *size) for _ in range(images // args.batch)]


@torch.no_grad()
def forward(model: nn.Module, batches: list[Tensor]) -> None:
    for batch in batches:
        model(batch)


def calibrate(model: nn.Module, batches: list[Tensor], args: argparse.Namespace) -> erq_mm.Report:
    return erq_mm.quantize_(model, erq_mm.ClassifierTask(batches), args.recipe, args.w_bits, args.a_bits)


def seconds_of(function: Callable[[], object]) -> float:
    """Return wall-clock seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def peak_above_float(args: argparse.Namespace, images: int) -> int:
    """Return bytes between the peak of a float forward and that of calibration."""
    model, batches = build(args, images)
    with PeakMemory(model) as memory:
        forward(model, batches)
    return calibrate(model, batches, args).peak_memory_bytes - memory.peak_bytes


def peak_in_a_process(images: int) -> int:
    command = [sys.executable, *sys.argv, '--peak-of', str(images)]
    # large blocks go back to the system when freed: the peaks are of memory in use, not of the allocator's gaps
    environment = os.environ | {'MALLOC_MMAP_THRESHOLD_': '262144'}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout.splitlines()[-1])


if __name__ == '__main__':
    main()
