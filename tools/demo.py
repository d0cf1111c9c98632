"""The main job on the embedded demo: recipes at W4A4 on a small Mask R-CNN beside float, as a table and pictures."""

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import erq_mm.engine  # noqa: F401
from erq_mm.calibration.progress import new_progress
from erq_mm.demo.pictures import draw_grid
from erq_mm.demo.run import Evaluation, evaluate
from erq_mm.demo.shapes import CLASSES, make_shapes

ROOT = Path(__file__).parent.parent
NAMES = {'mask': 'mask-rcnn_swin-mini', 'cascade': 'cascade-mask-rcnn_swin-mini'}
PICTURES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--detector', choices=NAMES, default='mask', help='Mask R-CNN or Cascade Mask R-CNN')
    parser.add_argument('--recipes', nargs='+', default=['serq', 'erq', 'repq', 'rtn'], help='recipes to compare')
    parser.add_argument('--w-bits', type=int, default=4)
    parser.add_argument('--a-bits', type=int, default=4)
    parser.add_argument('--images', type=int, default=1, help='calibration images')
    parser.add_argument('--data', type=Path, default=ROOT / 'data/shapes', help='folder of the generated images')
    parser.add_argument('--output', type=Path, default=ROOT / 'demo_output', help='folder for logs and pictures')
    args = parser.parse_args()

    started, console = time.perf_counter(), Console()
    make_shapes(args.data)
    data = f'{args.data}/'
    options = [
        *(f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val', 'test')),
        f'test_evaluator.ann_file={data}annotations/instances_val.json',
    ]
    name = NAMES[args.detector]
    common = dict(w_bits=args.w_bits, a_bits=args.a_bits, calibration=dict(num_images=args.images))
    results = []
    with new_progress() as progress:
        for recipe in ['float', *args.recipes]:
            quantization = None if recipe == 'float' else dict(recipe=recipe, **common)
            results.append(
                evaluate(
                    str(ROOT / f'configs/shapes/{name}_shapes.py'),
                    str(ROOT / f'configs/shapes/checkpoints/{name}.pth'),
                    recipe,
                    quantization,
                    args.output / recipe,
                    progress,
                    options,
                    keep=PICTURES,
                )
            )
    console.print(results_table(results, f'{name}, W{args.w_bits}A{args.a_bits}, {args.images} calibration image(s)'))
    picture = args.output / 'detections.png'
    shown = [r for r in results if r.name in ('float', args.recipes[0], args.recipes[-1])]
    titles = {r.name: f'{r.name}: {r.box_ap:.1f} box AP' for r in shown}
    draw_grid(picture, {r.name: r.samples for r in shown}, CLASSES, titles)
    console.print(f'pictures: {picture}\nlogs and reports: {args.output}/*/', highlight=False, soft_wrap=True)
    console.print(f'{time.perf_counter() - started:.0f} s in all')


def results_table(results: list[Evaluation], title: str) -> Table:
    """Return the comparison; drops are against the first row."""
    table = Table(title=title)
    table.add_column('recipe')
    for column in ('box AP', 'mask AP', 'box drop', 'mask drop', 'calibration s', 'quantized layers MB'):
        table.add_column(column, justify='right')
    base = results[0]
    size = next(r.report.float_size_bytes for r in results if r.report) / 2**20
    for result in results:
        report = result.report
        table.add_row(
            result.name,
            f'{result.box_ap:.1f}',
            f'{result.mask_ap:.1f}',
            *((f'{base.box_ap - result.box_ap:.1f}', f'{base.mask_ap - result.mask_ap:.1f}') if report else ('', '')),
            f'{report.seconds["total"]:.1f}' if report else '',
            f'{report.size_bytes / 2**20:.1f}' if report else f'{size:.1f}',
        )
    return table


if __name__ == '__main__':
    main()
