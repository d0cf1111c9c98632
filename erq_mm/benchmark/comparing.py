"""The code behind tools/benchmark.py: studies from grid files or flags, their cells, and the pages they make."""

import argparse
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import engine  # noqa: F401  registers the plugin
from ..calibration.progress import new_progress
from ..calibration.recipes.base import IMAGE_GRIDS
from .cells import Store
from .detectors import prepare_data
from .latency.run import main as latency
from .named import DEMO, IMAGENET
from .provenance import available_cores
from .scheduler import Failure, Scheduler, visible_gpus
from .session import cells_by_key, failure_text, html_path, missing_cells, write_studies
from .study import COLUMNS, FIGURES, FLOAT, Study, build_study, load_study
from .tables import console_table

ROOT = Path(__file__).parent.parent.parent  # of a clone, where the demo detectors are
GRID_FLAGS = (
    'detectors', 'recipes', 'bits', 'images', 'seeds', 'scopes', 'test_images', 'columns', 'figures', 'image',
    'baseline', 'title',
)  # fmt: skip


def main(description: str | None = None, arguments: list[str] | None = None) -> None:
    """Parse arguments, run the missing cells, write the pages."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # being ended is handled as Ctrl-C is
    if arguments[:1] == ['latency']:
        return latency(arguments[1:])
    args = build_parser(description).parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        studies = read_studies(args)
        prepare_data(list({detector for study in studies for detector in study.detectors}), ROOT)
    except (FileExistsError, FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f'{program()}: {error}')
    store = Store(args.cells)
    cells, total = missing_cells(studies, store, args.refresh), len(cells_by_key(studies))
    console.print(f'{total} cells, {total - len(cells)} done before, {len(cells)} to run', highlight=False)
    if args.report_only:
        cells = []
    if args.dry_run:
        console.print('\n'.join(cell.key for cell in cells), highlight=False, soft_wrap=True)
        return
    failures = run_cells(cells, store, args, console)
    for written in write_studies(studies, store, args.out, commands(args, studies, arguments)):
        for table in written.section.tables:
            console.print(console_table(table, written.section.study.title))
    console.print(f'pages: {args.out}/README.md, {html_path(studies, args.out)}', highlight=False, soft_wrap=True)
    if failures:
        sys.exit(failure_text(failures))


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'grids',
        nargs='*',
        type=Path,
        metavar='GRID.py',
        help='grid files, see configs/benchmark; or erq_mm::benchmark/table4.py',
    )
    grid = parser.add_argument_group('grid (replaces the key of the grid files)')
    grid.add_argument(
        '--detectors', nargs='+', help=f'of {", ".join([*DEMO, *IMAGENET])}, or JSON: {{"config":, "checkpoint":}}'
    )
    grid.add_argument('--recipes', nargs='+', help='names, or JSON with options: {"type": "erq", "lam": 0.01}')
    grid.add_argument('--bits', nargs='+', help='for example W4A4 W3A8')
    grid.add_argument('--images', nargs='+', type=int, help='numbers of calibration images')
    grid.add_argument('--seeds', nargs='+', type=int, help='of the choice of calibration images')
    grid.add_argument('--scopes', nargs='+', help='linears, all')
    grid.add_argument('--image', help=f'grid of the image: {", ".join(IMAGE_GRIDS)}')
    grid.add_argument(
        '--test-images',
        type=int,
        metavar='N',
        help='evaluate the demo models on N generated images, drawn once; the demos have 160 and 597',
    )
    grid.add_argument('--baseline', help='label of the row that differences are against (default: float)')
    grid.add_argument('--columns', nargs='+', help=f'of the tables: {", ".join(COLUMNS)}')
    grid.add_argument('--figures', nargs='*', help=f'plots: {", ".join(FIGURES)}')
    grid.add_argument('--title', help='heading')
    run = parser.add_argument_group('run')
    run.add_argument('--jobs', type=int, default=1, help='cells at a time, over all GPUs; times are honest with 1')
    run.add_argument('--threads', type=int, help='per cell (default: OMP_NUM_THREADS, or cores // jobs)')
    run.add_argument('--cells', type=Path, default=Path('work_dirs/benchmark/cells'), help='folder of the cells')
    run.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/results'), help='folder of tables and plots')
    run.add_argument('--refresh', action='store_true', help='run cells again that other code has measured')
    run.add_argument('--dry-run', action='store_true', help='check the grid, list the missing cells, run nothing')
    run.add_argument('--report-only', action='store_true', help='tables and plots of the cells that are there')
    return parser


def read_studies(args: argparse.Namespace) -> list[Study]:
    """Return the checked studies; raises ValueError and FileNotFoundError as `load_study` does."""
    if args.jobs < 1 or (args.threads is not None and args.threads < 1):
        raise ValueError(f'--jobs and --threads must be at least 1, got {args.jobs} and {args.threads}')
    overrides = {key: value for key in GRID_FLAGS if (value := getattr(args, key)) is not None}
    for key in ('detectors', 'recipes'):
        if key in overrides:
            overrides[key] = [parse_entry(key, text) for text in overrides[key]]
    if 'recipes' in overrides:
        overrides.setdefault('baseline', FLOAT)  # that of the grid file may not be among them
    if not args.grids:
        return [build_study('grid', overrides, ROOT)]
    names = [path.stem for path in args.grids]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'two grid files are called {twice[0]!r} and would write the same pages; rename one')
    return [load_study(path, overrides, ROOT) for path in args.grids]


def parse_entry(flag: str, text: str) -> Any:
    """Return a name as it is, JSON as what it says."""
    if not text.lstrip().startswith(('{', '[')):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'--{flag} {text!r} is no JSON: {error}') from error


def run_cells(cells: list, store: Store, args: argparse.Namespace, console: Console) -> list[Failure]:
    """Run the cells; on Ctrl-C end with the status of an interrupted program."""
    threads = args.threads or int(os.environ.get('OMP_NUM_THREADS') or max(1, available_cores() // args.jobs))
    if not cells:
        return []
    with new_progress() as progress:
        try:
            return Scheduler(store, args.jobs, threads, progress, gpus=visible_gpus()).run(cells)
        except KeyboardInterrupt:
            progress.stop()
            console.print('interrupted: finished cells are kept, the same command goes on from there')
            sys.exit(130)


def program() -> str:
    """Return how this program was called: a tool of the clone, or the console command."""
    name = Path(sys.argv[0]).name
    return f'python tools/{name}' if name.endswith('.py') else name


def commands(args: argparse.Namespace, studies: list[Study], arguments: list[str]) -> dict[str, str]:
    """Return study name -> the command that makes its page."""
    left_out = {'--report-only', '--refresh', *map(str, args.grids)}
    flags = shlex.join(argument for argument in arguments if argument not in left_out)
    if not args.grids:
        return {studies[0].name: f'{program()} {flags}'}
    return {path.stem: f'{program()} {path} {flags}'.rstrip() for path in args.grids}
