"""The code behind tools/export.py."""

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..calibration.progress import new_progress
from ..export.backends import BACKENDS
from ..export.exporter import Export, ExportedPart, export_parts
from ..loading import load_quantized


def main(description: str | None = None, arguments: list[str] | None = None) -> Export:
    """Load a quantized file, write its parts as ONNX, print what every part became."""
    args = build_parser(description).parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    try:
        with new_progress() as progress:
            task = progress.add_task(f'loading {args.model}', total=None)
            model = load_quantized(args.model)
            progress.update(task, description='exporting')
            export = export_parts(
                model, args.out, args.prove, lambda name: progress.update(task, description=f'exported {name}')
            )
            progress.update(task, total=1, completed=1)
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f'{Path(sys.argv[0]).name}: {error}')
    console.print(table(export))
    for line in remarks(export):
        console.print(line, highlight=False)
    console.print(f'{args.out}/manifest.json', highlight=False, soft_wrap=True)
    return export


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, help='a file of tools/quantize.py')
    parser.add_argument('--out', type=Path, required=True, help='folder for the graphs and manifest.json')
    parser.add_argument(
        '--prove', nargs='*', choices=sorted(BACKENDS), default=sorted(BACKENDS), metavar='BACKEND',
        help='load every graph into these engines and look up the kernels (default: all that are installed)',
    )  # fmt: skip
    return parser


def table(export: Export) -> Table:
    """Return a row per part: its layers, its sizes, and how many of them every engine runs as integers."""
    backends = sorted({name for part in export.parts for name in part.proofs})
    shown = Table(title='exported parts')
    shown.add_column('part')
    for heading in ('layers', 'integer', 'file MB', 'weights MB', 'float32 MB', *(f'integer in {b}' for b in backends)):
        shown.add_column(heading, justify='right')
    for part in export.parts:
        weights, floats = part.weight_bytes
        sizes = (f'{size / 1e6:.2f}' for size in (part.file_bytes, weights, floats))
        kernels = (_integer_share(part, backend) for backend in backends)
        layers = len(part.account.layers), len(part.account.integer_layers)
        shown.add_row(part.name, *map(str, layers), *sizes, *kernels)
    return shown


def remarks(export: Export) -> list[str]:
    """Return what a user has to know beside the table: what stays in torch, in float, and unproven."""
    lines = [f'{name} stays in torch: {reason}' for name, reason in export.left.items()]
    for part in export.parts:
        for backend, proofs in part.proofs.items():
            missed = [proof.name for proof in proofs if proof.was_planned and not proof.is_integer]
            if missed:
                lines.append(f'{part.name}: quantized, but float in {backend} here: {", ".join(missed)}')
        quantized = [layer for layer in part.account.float_layers if layer.w_bits is not None]
        lines += [f'{layer.name} runs in float: {layer.reason}' for layer in quantized]
    if export.notes:
        lines.append(f'{len(export.notes)} products of attention were quantized and are float in the graph')
    return [*lines, *(f'no proof of {name}: {reason}' for name, reason in export.not_proven.items())]


def _integer_share(part: ExportedPart, backend: str) -> str:
    proofs = part.proofs.get(backend)
    return '' if proofs is None else f'{sum(proof.is_integer for proof in proofs)} of {len(proofs)}'
