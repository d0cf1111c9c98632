"""Small classifiers of timm on handwritten digits, float and with several recipes at two bit-widths."""

import argparse
import re
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

import erq_mm.engine  # noqa: F401
from erq_mm.calibration.progress import new_progress
from erq_mm.demo.classification import Predictions, accuracy_table, predict, telling_images
from erq_mm.demo.digit_pictures import draw_predictions
from erq_mm.demo.digits import CLASSES, make_digits

ROOT = Path(__file__).parent.parent
MODELS = {'deit': 'deit-mini', 'swin': 'swin-mini'}
RECIPES = ['rtn', 'repq', 'erq', 'erq_tpami', 'serq']
# Few rows a column want more damping. Like the papers' lambda it is the model's, chosen on the digits of train
ERQ = dict(type='erq', lam=1.0)
BITS = ['W4A4', 'W3A3']
PICTURES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS))
    parser.add_argument('--recipes', nargs='+', default=RECIPES, help='recipes to compare')
    parser.add_argument('--bits', nargs='+', type=bits, default=BITS, metavar='WxAy')
    parser.add_argument('--images', type=int, default=32, help='calibration images')
    parser.add_argument('--seed', type=int, default=0, help='of the choice of calibration images')
    parser.add_argument('--data', type=Path, default=ROOT / 'data/digits', help='folder of the generated images')
    parser.add_argument('--output', type=Path, default=ROOT / 'demo_output', help='folder for logs and pictures')
    args = parser.parse_args()

    started, console = time.perf_counter(), Console()
    make_digits(args.data)
    rows, shown = {}, {}
    for model in args.models:
        name = MODELS[model]
        with new_progress() as progress:
            base, runs = run_model(name, args, progress)
        console.print(accuracy_table(f'{name}, {args.images} calibration images', base, runs))
        last = f'{name}, {args.bits[-1]}'
        rows[last] = [base, *runs[args.bits[-1]]]
        shown[last] = telling_images(base, runs[args.bits[-1]], PICTURES)
    picture = args.output / 'digits.png'
    draw_predictions(picture, rows, shown, CLASSES)
    console.print(f'pictures: {picture}\nlogs and reports: {args.output}/digits/', highlight=False, soft_wrap=True)
    console.print(f'{time.perf_counter() - started:.0f} s in all')


def bits(text: str) -> str:
    """Return WxAy as it is; raises ValueError for another form."""
    if not re.fullmatch(r'W[2-8]A[2-8]', text):
        raise ValueError(f'bits are written W4A4, got {text!r}')
    return text


def run_model(
    name: str, args: argparse.Namespace, progress: Progress
) -> tuple[Predictions, dict[str, list[Predictions]]]:
    """Return what the float model says, and per bits what every recipe makes of it."""
    config, checkpoint = ROOT / f'configs/digits/{name}_digits.py', ROOT / f'configs/digits/checkpoints/{name}.pth'
    options = [f'{split}_dataloader.dataset.data_root={args.data}/' for split in ('train', 'val', 'test')]

    def run(recipe: str, level: str = '') -> Predictions:
        quantization = None
        if level:
            common = dict(w_bits=int(level[1]), a_bits=int(level[3]))
            chosen = ERQ if recipe == 'erq' else recipe
            quantization = common | dict(recipe=chosen, calibration=dict(num_images=args.images, seed=args.seed))
        work_dir = args.output / 'digits' / name / f'{recipe}{level and "_" + level.lower()}'
        return predict(str(config), str(checkpoint), recipe, quantization, work_dir, progress, options)

    return run('float'), {level: [run(recipe, level) for recipe in args.recipes] for level in args.bits}


if __name__ == '__main__':
    main()
