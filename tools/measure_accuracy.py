"""Box and mask AP of recipes x bits x numbers of calibration images on the demo detectors, as a table and JSON.

    python tools/measure_accuracy.py                       # the cells behind the README's accuracy table
    python tools/measure_accuracy.py --detectors mask --recipes erq --bits 3,4 --images 1 --seeds 0 1 2

A cell that is already in the JSON file is not run again.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

from demo import NAMES, ROOT
from rich.console import Console
from rich.table import Table

import erq_mm.engine  # noqa: F401
from erq_mm.calibration.progress import new_progress
from erq_mm.demo.run import evaluate
from erq_mm.demo.shapes import make_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--detectors', nargs='+', choices=NAMES, default=list(NAMES))
    parser.add_argument(
        '--recipes', nargs='+', default=['rtn', 'repq', 'erq'], help='names, or JSON dicts with options'
    )
    parser.add_argument('--bits', nargs='+', default=['8,8', '4,4', '3,4'], metavar='W,A')
    parser.add_argument('--images', nargs='+', type=int, default=[1, 16], help='numbers of calibration images')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--scope', default='linears')
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs/accuracy.json')
    args = parser.parse_args()
    os.chdir(ROOT)
    make_shapes(Path('data/shapes'))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    cells = [(d, 'float', '32,32', 0, 0) for d in args.detectors]
    cells += itertools.product(args.detectors, args.recipes, args.bits, args.images, args.seeds)
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    with new_progress() as progress:
        for cell in cells:
            key = ' '.join(map(str, (*cell, args.scope)))
            if key not in results:
                results[key] = run_cell(cell, args.scope, progress)
                unfinished = args.results.with_suffix('.unfinished')
                unfinished.write_text(json.dumps(results, indent=1))
                unfinished.replace(args.results)
    table = Table(title=f'scope {args.scope}')
    for column in ('detector', 'recipe', 'bits', 'images', 'seed', 'box AP', 'mask AP', 'calibration s'):
        table.add_column(column)
    for cell in cells:
        result = results[' '.join(map(str, (*cell, args.scope)))]
        table.add_row(*map(str, cell), f'{result["box"]:.2f}', f'{result["mask"]:.2f}', f'{result["seconds"]:.1f}')
    Console(width=160).print(table)


def run_cell(cell: tuple, scope: str, progress) -> dict[str, float]:
    """Evaluate one detector x recipe x bits x images x seed."""
    detector, recipe, bits, images, seed = cell
    quantization = None
    if recipe != 'float':
        w_bits, a_bits = map(int, bits.split(','))
        quantization = dict(
            recipe=json.loads(recipe) if recipe.startswith('{') else recipe,
            w_bits=w_bits,
            a_bits=a_bits,
            scope=scope,
            calibration=dict(num_images=images, seed=seed),
        )
    name = NAMES[detector]
    config, checkpoint = f'configs/shapes/{name}_shapes.py', f'configs/shapes/checkpoints/{name}.pth'
    result = evaluate(config, checkpoint, ' '.join(map(str, cell)), quantization, Path('work_dirs/accuracy'), progress)
    seconds = result.report.seconds['total'] if result.report else 0.0
    return {'box': result.box_ap, 'mask': result.mask_ap, 'seconds': seconds}


if __name__ == '__main__':
    main()
