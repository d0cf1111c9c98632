"""Time every engine on every subject, and write JSON and Markdown."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from ...calibration.progress import new_progress
from ...engine.evaluation import parse_recipe
from ...engine.graph_backends import Deployment
from ...export.backends import BACKENDS
from ...export.backends.cpu import saturates
from ...export.onnx import write_parts
from ..provenance import provenance
from ..storage import write_whole
from .engines import ENGINES, Engine, Unavailable, prepare
from .memory import peak_mb
from .subjects import SUBJECTS, Subject, build_float, build_quantized, runner
from .tables import Result, markdown
from .timing import interleaved

DESCRIPTION = """Time float and quantized models in every engine that is installed.

    python tools/benchmark.py latency                                # the Swin-T backbone, W8A8
    python tools/benchmark.py latency --models backbone mask_rcnn --bits W8A8 W4A8 --rounds 7 --memory --profile

One thread; CPU time of the process; engines take turns, and ratios are medians over rounds. Weights are random. In
whole detectors RoIAlign runs as sums of embeddings with every engine, float32 included.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line of `tools/benchmark.py latency`, and measure."""
    args = build_parser().parse_args(arguments)
    torch.set_num_threads(1)
    bits = [parse_recipe(f'rtn_{text.lower()}') for text in args.bits]
    results: list[Result] = []
    for name in args.models:
        for pair in bits:
            measure(SUBJECTS[name], pair['w_bits'], pair['a_bits'], args, results)
            write(results, args.out)
    Console(width=150).print(f'{args.out}.json, {args.out}.md', highlight=False)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog=f'{Path(sys.argv[0]).name} latency',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--models', nargs='+', choices=SUBJECTS, default=['backbone'], metavar='MODEL', help=f'{", ".join(SUBJECTS)}'
    )
    parser.add_argument('--bits', nargs='+', default=['W8A8'], help='for example W8A8 W4A8')
    parser.add_argument(
        '--engines', nargs='+', choices=ENGINES, default=list(ENGINES), metavar='ENGINE', help=f'{", ".join(ENGINES)}'
    )
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each engine')
    parser.add_argument('--memory', action='store_true', help='also peak memory, of backbones')
    parser.add_argument('--profile', action='store_true', help='also the time per operator type, of backbones')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/latency'), help='path without suffix')
    return parser


def measure(subject: Subject, w_bits: int, a_bits: int, args: argparse.Namespace, results: list[Result]) -> None:
    """Append to `results`, which are written with the times before memory and profiles are measured, too."""
    result = Result(subject.name, f'W{w_bits}A{a_bits}', {})
    runs, models = {}, {}
    with new_progress() as progress:
        task = progress.add_task(f'{result.subject} {result.bits}: preparing', total=None)
        models[False] = build_float(subject)
        models[True] = build_quantized(models[False], subject, w_bits, a_bits)
        for engine in (ENGINES[name] for name in args.engines):
            try:
                model, deployment = prepare(engine, models[engine.is_quantized], subject)
            except Unavailable as error:
                result.unavailable[engine.name] = str(error)
            else:
                runs[engine.name] = runner(model, subject)
                result.notes[engine.name] = _notes(deployment)
        total = (args.rounds + 1) * len(runs)
        progress.update(task, description=f'{result.subject} {result.bits}: timing', total=total)
        counted = {name: _counted(run, partial(progress.advance, task)) for name, run in runs.items()}
        seconds = interleaved(counted, args.rounds)
    result.milliseconds = {name: [1000 * value for value in values] for name, values in seconds.items()}
    results.append(result)
    write(results, args.out)  # what there is, if what comes fails
    runs.clear()
    if not subject.is_whole:
        for engine in (ENGINES[name] for name in result.milliseconds if ENGINES[name].backend in BACKENDS):
            _look_closer(result, engine, models[engine.is_quantized], subject, args)


def _counted(run: Callable[[], object], advance: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        run()
        advance()

    return call


def _notes(deployment: Deployment | None) -> list[str]:
    if deployment is None:
        return []
    floats = [proof.name for proof in deployment.float_layers]
    return deployment.notes + ([f'{len(floats)} quantized layers run in float'] if floats else [])


def _look_closer(
    result: Result, engine: Engine, model: torch.nn.Module, subject: Subject, args: argparse.Namespace
) -> None:
    graph = write_parts(model)[0][0].model
    if args.memory:
        result.peak_mb[engine.name] = peak_mb(graph, engine.backend, engine.precision, subject.height, subject.width)
    if args.profile:
        inputs = [torch.zeros(1, 3, subject.height, subject.width)]
        result.profiles[engine.name] = BACKENDS[engine.backend]().profile(graph, inputs, 2, 1, engine.precision)


def write(results: list[Result], out: Path) -> None:
    """Write OUT.json and OUT.md, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    origin = provenance(jobs=1)
    origin['machine']['instructions'] = (
        f'{torch.backends.cpu.get_cpu_capability()}, {"no VNNI" if saturates() else "VNNI"}'
    )
    values = {'provenance': origin, 'results': [result.to_dict() for result in results]}
    write_whole(out.with_suffix('.json'), json.dumps(values, indent=1) + '\n')
    write_whole(out.with_suffix('.md'), markdown(results, origin['machine'], threads=1))
