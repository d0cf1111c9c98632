"""The code behind tools/quantize.py: a config and a float checkpoint in, one file with the quantized detector out."""

import argparse
from pathlib import Path

from mmengine.config import DictAction
from mmengine.runner import CheckpointLoader

from ..calibration.recipes import FAST_RECIPES, RECIPES
from ..calibration.report import check_writable
from ..export.container import check_suffix
from ..export.sizes import SizeTable
from .checkpoints import check_float_checkpoint
from .console import size_lines, summary
from .evaluation import add_recipe, load_config, parse_recipe
from .hook import ERQHook
from .inference import quantize_detector_
from .model_kinds import kind_of_config
from .saved_detectors import save_detector


def main(description: str | None = None, arguments: list[str] | None = None) -> SizeTable:
    """Parse arguments, quantize, write; returns what everything in the file takes."""
    args = build_parser(description).parse_args(arguments)
    check_writable(check_suffix(args.out), 'quantized model', '--out')
    config = load_config(args.config)
    if args.recipe is not None:
        add_recipe(config, args.recipe)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    if (config.get('default_hooks') or {}).get('quantization') is None:
        raise SystemExit(f'{args.config} has no default_hooks.quantization: say how, e.g. --recipe erq_w4a4')
    quantization = {key: value for key, value in config.default_hooks.quantization.items() if key != 'type'}
    model = kind_of_config(config).init_model(config, args.checkpoint, args.device)
    checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu')
    check_float_checkpoint(model, checkpoint, ERQHook(**quantization).quantization.scope)
    report = quantize_detector_(model, config)
    if args.report:
        report.write(args.report)
    table = save_detector(model, args.out, report, config, model.dataset_meta)
    print(summary(report))
    print(size_lines(table, args.out))
    return table


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config with the data to calibrate on: a file, or a name like erq_mm::swin/...')
    parser.add_argument('checkpoint', help='float checkpoint')
    parser.add_argument(
        '--recipe',
        type=parse_recipe,
        metavar='NAME[_wXaY]',
        help=f'how ({", ".join(sorted(RECIPES))}, and short versions like {min(FAST_RECIPES)}), for example erq_w4a4; '
        "default: the config's ERQHook",
    )
    parser.add_argument('--out', type=Path, required=True, help='.safetensors file to write, or .pth')
    parser.add_argument('--device', default='cpu', help='where to calibrate, for example cuda:0 (default: %(default)s)')
    parser.add_argument('--report', type=Path, help='also write quantization.json here (the file has it, too)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='key=value pairs merged into the config, after --recipe'
    )
    return parser
