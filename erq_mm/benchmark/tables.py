"""Tables of a study: one per detector, as plain texts that console, Markdown and HTML share; and all cells as CSV."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.table import Table as RichTable

from ..analysis.bootstrap import Interval
from .fidelity import MEAN, PARTS
from .protocols import METRICS
from .published import Published
from .results import Row, baseline_row
from .study import FIDELITY, FLOAT, MEASURED, Study

NOTHING = ''
UNEXPLAINED = 'unexplained variance, %'


@dataclass
class Table:
    """A heading, columns and rows of texts, and notes below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Context:
    """What a column needs besides its row."""

    study: Study
    rows: list[Row]


def _interval(value: Interval | None, signed: bool = False) -> str:
    if value is None:
        return NOTHING
    form = '{:+.1f}' if signed else '{:.1f}'
    numbers = [form.format(round(v, 1) + 0.0) for v in (value.value, value.low, value.high)]
    return f'{numbers[0]} [{numbers[1]}, {numbers[2]}]'


def _measured(metric: str) -> Callable[[Row, Context], str]:
    return lambda row, _: _interval(row.measured(metric))


def _difference(metric: str) -> Callable[[Row, Context], str]:
    def text(row: Row, context: Context) -> str:
        baseline = baseline_row(context.study, context.rows, row)
        if baseline is None or baseline is row or row.label == FLOAT:
            return NOTHING
        return _interval(row.difference(baseline, metric), signed=True)

    return text


def _number(value: float | None, form: str = '.2f') -> str:
    return NOTHING if value is None else format(value, form)


def _fidelity(part: str) -> Callable[[Row, Context], str]:
    return lambda row, _: _percent(row.fidelity(part))


def _percent(value: float | None) -> str:
    """Return a fraction in percent with three digits, however small."""
    return NOTHING if value is None else format(100 * value, '.0f' if value >= 1 else '.3g')


def _fidelity_share(row: Row, context: Context) -> str:
    baseline = baseline_row(context.study, context.rows, row)
    own, others = row.fidelity(), baseline.fidelity() if baseline else None
    return NOTHING if own is None or not others else _number(own / others)


def _size(row: Row, _: Context) -> str:
    if not row.reports:
        return NOTHING
    return f'{row.size_mb:.2f} / {row.reports[0]["float_size_bytes"] / 2**20:.2f}'


COLUMNS: dict[str, tuple[str, Callable[[Row, Context], str]]] = {
    **{key: (metric.name, _measured(key)) for key, metric in METRICS.items()},
    **{f'{key}_difference': (f'{metric.name} - {{baseline}}', _difference(key)) for key, metric in METRICS.items()},
    'fidelity': (UNEXPLAINED, _fidelity(MEAN)),
    'fidelity_share': ("unexplained, share of {baseline}'s", _fidelity_share),
    **{f'fidelity_{part}': (f'{UNEXPLAINED}: {name}', _fidelity(part)) for part, name in PARTS.items()},
    'seconds': ('calibration, s', lambda row, _: _number(row.seconds, '.1f')),
    'memory': ('calibration peak, MB', lambda row, _: _number(row.memory_mb, '.0f')),
    'size': ('quantized layers, MB / as float32', _size),
    'operations': ('bit operations, 10^9', lambda row, _: _number(row.giga_bit_operations, ',.0f')),
}


def study_tables(study: Study, rows: list[Row]) -> list[Table]:
    """Return one table per detector; rows that were not measured yet are absent, and a note says how many."""
    return [_detector_table(study, rows, detector) for detector in study.detectors if study.recipes]


def _detector_table(study: Study, all_rows: list[Row], detector: object) -> Table:
    rows = [row for row in all_rows if row.detector == detector]
    context, published = Context(study, all_rows), Published(study.published, detector.name)
    keys = _keys(study)
    headings = [COLUMNS[column][0].format(baseline=study.baseline) for column in study.columns]
    texts = [
        [
            *(str(getattr(row, key)) if getattr(row, key) is not None else NOTHING for key in keys.values()),
            *(COLUMNS[column][1](row, context) for column in study.columns),
            *published.values(row.attributes),
        ]
        for row in rows
    ]
    notes = [
        _interval_note(study),
        *_fidelity_notes(study, rows),
        _load_note(study, rows),
        *published.notes(),
        *_missing_note(study, rows),
        _image_note(study),
    ]
    return Table(detector.title, [*keys, *headings, *published.headings], texts, [note for note in notes if note])


def _keys(study: Study) -> dict[str, str]:
    """Return heading -> attribute of what tells rows apart."""
    keys = {'recipe': 'label', 'bits': 'bits'}
    if len(study.images) > 1:
        keys['images'] = 'images'
    if len(study.scopes) > 1:
        keys['scope'] = 'scope'
    return keys


def _interval_note(study: Study) -> str:
    if not set(MEASURED) & set(study.columns):
        return ''
    measures = ' and '.join(dict.fromkeys(metric.short for metric in study.metrics))
    seeds = f', mean of seeds {list(study.seeds)}' if len(study.seeds) > 1 else ''
    return (
        f'{measures} in percent [95 % bootstrap interval over test images]{seeds}; differences are paired: '
        'both sides on the same resampled images.'
    )


def _fidelity_notes(study: Study, rows: list[Row]) -> list[str]:
    """Return what the columns of fidelity are, and how many rows have none."""
    if not set(FIDELITY) & set(study.columns):
        return []
    notes = [
        "Unexplained variance: of the float model's outputs, on the same test images in all rows, none of which "
        'calibrated; mean over the parts of the model, the mask head aside.'
    ]
    missing = sum(row.fidelity() is None for row in rows)
    if missing:
        notes.append(
            f'{missing} of {len(rows)} rows have none: their reports say why, or they were measured before it was, and '
            '--refresh runs them again.'
        )
    return notes


def _load_note(study: Study, rows: list[Row]) -> str:
    """Return a warning about times that other processes have stretched."""
    jobs = sorted({result['provenance']['jobs'] for row in rows for result in row.results if result['report']})
    if 'seconds' not in study.columns or not jobs or jobs == [1]:
        return ''
    return f'Seconds were measured with {" or ".join(map(str, jobs))} cells side by side, which stretches them.'


def _image_note(study: Study) -> str:
    is_published = study.recipes and study.image == 'published'
    return (
        "The image has one fitted range for all channels, as published (`image = 'published'`)." if is_published else ''
    )


def _missing_note(study: Study, rows: list[Row]) -> list[str]:
    expected = 1 + len(study.recipes) * len(study.bits) * len(study.images) * len(study.scopes)
    return [f'{expected - len(rows)} of {expected} rows are not measured yet.'] if len(rows) < expected else []


def console_table(table: Table, title: str) -> RichTable:
    """Return the table for the terminal."""
    shown = RichTable(title=f'{title}: {table.title}', caption='\n'.join(table.notes), caption_justify='left')
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify='left' if index == 0 else 'right')
    for row in table.rows:
        shown.add_row(*(text.replace('[', '\\[') for text in row))
    return shown


def cells_csv(study: Study, rows: list[Row]) -> str:
    """Return every number of the rows, one line per row, with a header."""
    output = io.StringIO()
    intervals = [f'{metric.column}{part}' for metric in study.metrics for part in ('', '_low', '_high')]
    parts = [MEAN, *(part for part in PARTS if any(row.reports and row.fidelity(part) is not None for row in rows))]
    fidelity = ['fidelity' if part == MEAN else f'fidelity_{part}' for part in parts]
    numbers = ('seconds', 'memory_mb', 'size_mb', 'giga_bit_operations')
    keys = ('detector', 'recipe', 'label', 'bits', 'images', 'scope', 'seeds')
    writer = csv.writer(output, lineterminator='\n')
    writer.writerow([*keys, *intervals, *fidelity, *numbers, 'commit'])
    for row in rows:
        found = [row.measured(metric.key) for metric in study.metrics]
        measured = [value for one in found for value in ((one.value, one.low, one.high) if one else (None,) * 3)]
        commits = sorted({result['provenance']['commit'] for result in row.results})
        identity = [row.detector.name, row.recipe, row.label, row.bits, row.images, row.scope, len(row.results)]
        unexplained = ['' if (v := row.fidelity(part)) is None else float(f'{v:.4g}') for part in parts]
        others = ['' if v is None else round(v, 4) for v in (getattr(row, name) for name in numbers)]
        texts = ['' if v is None else round(v, 4) for v in measured]
        writer.writerow([*identity, *texts, *unexplained, *others, ' '.join(commits)])
    return output.getvalue()
