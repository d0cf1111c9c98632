"""The console command `erq-mm`: the code of tools/, by subcommand, for installations without a clone."""

import argparse
import sys
from dataclasses import dataclass
from importlib import import_module

from . import __version__


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        module: whose `main(description)` it is, imported only when it is asked for.
        summary: one line.
        examples: for its own `--help`.
    """

    module: str
    summary: str
    examples: str


COMMANDS = {
    'test': Command(
        'engine.evaluation',
        'Evaluate a detector or classifier: float, quantized by --recipe or its ERQHook, or saved by `quantize`.',
        """
    erq-mm test erq_mm::swin/mask-rcnn_swin-t_erq-w4a4_coco.py CHECKPOINT
    erq-mm test mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py CHECKPOINT --recipe erq_w4a4
    erq-mm test CONFIG model.safetensors""",
    ),
    'quantize': Command(
        'engine.quantizing',
        'Quantize a detector or a classifier and save it as one file, which every tool loads without calibrating.',
        """
    erq-mm quantize CONFIG CHECKPOINT --recipe erq_w4a4 --out model.safetensors""",
    ),
    'export': Command(
        'engine.exporting',
        'Write a saved quantized detector as ONNX graphs with Q/DQ, and prove which layers become integer kernels.',
        """
    erq-mm export model.safetensors --out graphs
    erq-mm test CONFIG model.safetensors --backend openvino""",
    ),
    'benchmark': Command(
        'benchmark.comparing',
        'Compare recipes on a grid of detectors x bits x calibration images x seeds, as tables, plots and a page.',
        """
    erq-mm benchmark GRID.py --jobs 2 --out results
    erq-mm benchmark erq_mm::benchmark/table4.py --detectors '{"config": "CONFIG", "checkpoint": "CHECKPOINT"}'
    erq-mm benchmark latency --help      # how fast models run in every engine""",
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Run a subcommand; `erq-mm --help` lists them."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = build_parser().parse_args(arguments[:1])
    command = COMMANDS[args.command]
    # its parser, its messages and the workers it starts look there for what they are called with
    sys.argv = [f'erq-mm {args.command}', *arguments[1:]]
    import_module(f'.{command.module}', __package__).main(f'{command.summary}\n{command.examples}')


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the first argument."""
    width = max(map(len, COMMANDS))
    listed = '\n'.join(f'  {name:{width}}  {command.summary}' for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog='erq-mm',
        usage='%(prog)s COMMAND [arguments]   (%(prog)s COMMAND --help lists them)',
        description='Post-training quantization of Swin detectors for mmdet 3.x.',
        epilog=f'commands:\n{listed}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'erq_mm {__version__}')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND', help='what to do')
    return parser


if __name__ == '__main__':
    main()
