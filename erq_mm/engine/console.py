"""Tables for a person: what was quantized, at which bits, what stayed float and why, and what a saved model takes."""

import io
import re
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from ..calibration.report import LayerReport, Report
from ..export.sizes import SizeTable


def summary(report: Report, width: int = 160) -> str:
    """Return the table as text, one row per group of like layers (numbers in names become `*`)."""
    table = Table(title=f'{report.recipe} W{report.w_bits}A{report.a_bits}, scope {report.scope}')
    for column in ('layers', 'count', 'role', 'W', 'A', 'SQNR dB', 'note'):
        table.add_column(column, no_wrap=column == 'layers', overflow='fold')
    groups: dict[tuple, list[LayerReport]] = defaultdict(list)
    for layer in report.layers:
        groups[(_pattern(layer.name), layer.role, layer.w_bits, layer.a_bits, layer.note)].append(layer)
    for (pattern, role, w_bits, a_bits, note), layers in groups.items():
        table.add_row(pattern, str(len(layers)), role, _bits(w_bits), _bits(a_bits), _range(layers), note or '')
    float_groups: dict[tuple[str, str], int] = defaultdict(int)
    for layer in report.float_layers:
        float_groups[(_pattern(layer['name']), layer['reason'])] += 1
    for (pattern, reason), count in float_groups.items():
        table.add_row(pattern, str(count), '', 'float', 'float', '', reason, style='dim')
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    seconds = ', '.join(f'{name} {value:.1f}' for name, value in report.seconds.items() if name != 'total')
    sizes = f'{report.float_size_bytes / 2**20:.1f} MB -> {report.size_bytes / 2**20:.1f} MB packed'
    return '\n'.join([
        f'{text.getvalue()}calibration: {report.seconds["total"]:.1f} s ({seconds}); '
        f'images {report.calibration.get("image_ids")}; weights of quantized layers: {sizes}',
        *_reconstruction(report.reconstruction),
        *_checks(report.checks),
        *(f'note: {note}' for note in report.notes),
    ])  # fmt: skip


def size_lines(sizes: SizeTable, path: Path, width: int = 100) -> str:
    """Return the table of what everything in a saved model takes."""
    table = Table(title=f'{path}')
    table.add_column('part')
    for column in ('layers', 'MB', 'MB in float32', 'smaller'):
        table.add_column(column, justify='right')
    for row in sizes.lines():
        figures = f'{row.saved / 1e6:.2f}', f'{row.float32 / 1e6:.2f}', f'{row.ratio:.2f}x'
        table.add_row(row.what, str(row.layers or ''), *figures)
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


def _checks(checks: dict[str, Any]) -> list[str]:
    """Say what was proven about the model, or that the user did not want to know."""
    same_function = checks.get('same_function')
    if not same_function:
        return []
    if same_function == 'off':
        return ['same function as the float model: not checked (same_function=False)']
    proven = ', '.join(f'after the {stage} {found["largest_difference"]:.1g}' for stage, found in same_function.items())
    return [f'same function as the float model with all quantizers off; largest relative difference {proven}']


def _reconstruction(units: list[dict[str, Any]]) -> list[str]:
    if not units:
        return []
    ratios = sorted(unit['after'] / unit['before'] if unit['before'] > 0 else 1.0 for unit in units)
    unchanged = sum(not unit['kept'] for unit in units)
    return [
        f'reconstruction: {len(units)} units, objective after / before {ratios[0]:.2f} .. {ratios[-1]:.2f}, median '
        f'{median(ratios):.2f}; {unchanged} keep their calibrated values'
    ]


def _pattern(name: str) -> str:
    return re.sub(r'(?<=\.)\d+(?=\.|$)', '*', name)


def _bits(bits: int | None) -> str:
    return '-' if bits is None else str(bits)


def _range(layers: list[LayerReport]) -> str:
    values = [layer.sqnr_db for layer in layers if layer.sqnr_db is not None]
    if not values:
        return ''
    return f'{min(values):.1f}' if len(values) == 1 else f'{min(values):.1f} .. {max(values):.1f}'
