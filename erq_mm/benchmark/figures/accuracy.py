"""AP by recipe and bits, AP against calibration seconds, and AP along a parameter."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ..bootstrap import Interval
from ..results import TASKS, Row
from ..study import FLOAT, Study
from .canvas import COLOURS, MARKERS, float_line, new_figure, to_png

LARGEST_DROP = 15.0  # AP points below float that a plot still resolves; what lies lower is marked at its edge

LEGEND_COLUMNS = 5
WHISKERS = (
    'whiskers are the 95 % bootstrap interval of the difference to float on the same resampled test images; one that '
    'reaches the dashed line is not told apart from float.'
)


def accuracy_figure(study: Study, rows: list[Row]) -> tuple[bytes, str]:
    """Return a dot per recipe and number of bits with its interval: detectors below each other, boxes beside masks."""
    names = _names(study, rows)
    height = len(study.detectors) * (1.0 + 0.26 * len(names))
    figure, axes = new_figure(len(study.detectors), 2, 10, max(height, 3), sharey='row')
    for line, detector in zip(axes, study.detectors, strict=True):
        own = [row for row in rows if row.detector == detector]
        for panel, task in zip(line, TASKS, strict=True):
            _dots(panel, study, own, names, task)
            panel.set_title(f'{detector.title}, {task} AP')
            panel.set_xlabel(f'{task} AP, percent')
    _legend_below(figure, axes[0, 0])
    return to_png(figure), f'AP by recipe and bits; {WHISKERS} Values far below float are written at the left edge.'


def _names(study: Study, rows: list[Row]) -> list[str]:
    found = [_name(study, row) for row in rows if row.label != FLOAT]
    return list(dict.fromkeys(found))


def _name(study: Study, row: Row) -> str:
    extra = [f'{row.images} images'] * (len(study.images) > 1) + [row.scope] * (len(study.scopes) > 1)
    return ', '.join([row.label, *extra])


def _dots(panel: Axes, study: Study, rows: list[Row], names: list[str], task: str) -> None:
    baseline = _float_row(rows)
    edge = max(baseline.ap(task).value - LARGEST_DROP, 0) if baseline else 0
    for index, bits in enumerate(_bits(study)):
        shift = 0.18 * (index - (len(study.bits) - 1) / 2)
        colour = COLOURS[index % len(COLOURS)]
        own = [row for row in rows if row.bits == bits and row.ap(task) is not None]
        shown = [(names.index(_name(study, row)) + shift, _against_float(row, baseline, task)) for row in own]
        inside = [(y, ap) for y, ap in shown if ap.value >= edge]
        errors = [[ap.value - ap.low for _, ap in inside], [ap.high - ap.value for _, ap in inside]]
        panel.errorbar(
            [ap.value for _, ap in inside], [y for y, _ in inside], xerr=errors, fmt=MARKERS[index % len(MARKERS)],
            color=colour, markersize=4.5, linewidth=1, label=bits,
        )  # fmt: skip
        for y, ap in shown:
            if ap.value < edge:
                panel.annotate(f'◂ {ap.value:.1f}', (edge, y), color=colour, fontsize=8, va='center')
    if baseline:
        float_line(panel, baseline.ap(task).value, vertical=True)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)


def _float_row(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.label == FLOAT), None)


def _against_float(row: Row, baseline: Row | None, task: str) -> Interval:
    """Return AP with the interval of its difference to float, at the height of AP."""
    ap = row.ap(task)
    if baseline is None:
        return ap
    difference, reference = row.difference(baseline, task), baseline.ap(task).value
    return Interval(ap.value, reference + difference.low, reference + difference.high)


def _bits(study: Study) -> list[str]:
    return [f'W{w}A{a}' for w, a in study.bits]


def _legend_below(figure: object, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=max(len(labels), 1))


def seconds_figure(study: Study, rows: list[Row]) -> tuple[bytes, str]:
    """Return box AP against calibration seconds, a panel per detector and number of bits."""
    bits, names = _bits(study), _names(study, rows)
    height = 3.4 * len(study.detectors) + 0.22 * len(names) / LEGEND_COLUMNS
    figure, axes = new_figure(len(study.detectors), len(bits), 4.6 * len(bits) + 0.6, height, sharex=True)
    for line, detector in zip(axes, study.detectors, strict=True):
        for panel, wanted in zip(line, bits, strict=True):
            own = [row for row in rows if row.detector == detector]
            baseline = _float_row(own)
            edge = max(baseline.ap('box').value - LARGEST_DROP, 0) if baseline else 0
            _scatter(panel, [row for row in own if row.bits == wanted and row.seconds], study, names, edge)
            if baseline:
                float_line(panel, baseline.ap('box').value, vertical=False)
            _widen(panel)
            panel.set_title(f'{detector.title}, {wanted}')
            panel.set_xlabel('calibration, seconds')
            panel.set_ylabel('box AP, percent')
    handles = [Line2D([], [], linestyle='', markersize=6, label=name, **_style(i)) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc='outside lower center', ncols=LEGEND_COLUMNS)
    jobs = sorted({result['provenance']['jobs'] for row in rows for result in row.results})
    load = f', measured with {" or ".join(map(str, jobs))} cell(s) side by side'
    caption = f'Box AP against seconds of calibration{load}; the dashed line is float.'
    return to_png(figure), f'{caption} What lies far below it is drawn at the bottom with its AP beside.'


def _style(index: int) -> dict[str, str]:
    """Return colour and marker of a recipe: every pair occurs once before one repeats."""
    count = len(MARKERS)
    return {'color': COLOURS[index % len(COLOURS)], 'marker': MARKERS[(index + index // count) % count]}


def _scatter(panel: Axes, rows: list[Row], study: Study, names: list[str], edge: float) -> None:
    panel.set_xscale('log')
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter('{x:g}')
    panel.xaxis.set_minor_formatter(NullFormatter())
    for row in rows:
        value = row.ap('box').value
        style = _style(names.index(_name(study, row)))
        panel.plot(row.seconds, max(value, edge), linestyle='', markersize=6, **style)
        if value < edge:
            panel.annotate(f' {value:.1f}', (row.seconds, edge), color=style['color'], fontsize=8, va='center')


def _widen(panel: Axes) -> None:
    """Show at least one point of AP, so that differences far below the noise do not look like any."""
    low, high = panel.get_ylim()
    missing = max(1.0 - (high - low), 0.0) / 2
    panel.set_ylim(low - missing, high + missing)


def curve_figure(study: Study, rows: list[Row]) -> tuple[bytes, str]:
    """Return AP along a parameter, a line per recipe or number of bits: detectors below each other."""
    figure, axes = new_figure(len(study.detectors), 2, 9, 3.1 * len(study.detectors) + 0.3)
    for line, detector in zip(axes, study.detectors, strict=True):
        own = [row for row in rows if row.detector == detector]
        for panel, task in zip(line, TASKS, strict=True):
            _lines(panel, own, task)
            baseline = _float_row(own)
            if baseline:
                float_line(panel, baseline.ap(task).value, vertical=False)
            _parameter_axis(panel, study, own)
            panel.set_title(f'{detector.title}, {task} AP')
            panel.set_ylabel(f'{task} AP, percent')
    _legend_below(figure, axes[0, 0])
    return to_png(figure), f'AP along {study.curve["label"]}; {WHISKERS}'


def _lines(panel: Axes, rows: Sequence[Row], task: str) -> None:
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for row in rows:
        if row.label == FLOAT or row.ap(task) is None:
            continue
        name = f'{row.recipe} {row.bits}' if row.x is not None else f'{row.label} {row.bits}'
        lines.setdefault(name, []).append((_position(row), _against_float(row, _float_row(rows), task)))
    for index, (name, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        aps = [ap for _, ap in points]
        errors = [[ap.value - ap.low for ap in aps], [ap.high - ap.value for ap in aps]]
        panel.errorbar(
            [x for x, _ in points], [ap.value for ap in aps], yerr=errors, marker=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)], markersize=5, linewidth=1.2, elinewidth=0.8, capsize=2, label=name,
        )  # fmt: skip


def _position(row: Row) -> float:
    return row.images if row.x is None else row.x


def _parameter_axis(panel: Axes, study: Study, rows: Sequence[Row]) -> None:
    panel.set_xlabel(study.curve['label'])
    if study.curve['log']:
        panel.set_xscale('log')
    xs = sorted({_position(row) for row in rows if row.label != FLOAT})
    panel.set_xticks(xs, [f'{x:g}' for x in xs])
    panel.minorticks_off()
