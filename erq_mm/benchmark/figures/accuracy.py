"""What was measured by recipe and bits, against calibration seconds, and along a parameter."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ...analysis.bootstrap import Interval
from ..protocols import Metric
from ..results import Row
from ..study import FLOAT, Study
from .canvas import COLOURS, MARKERS, float_line, new_figure, to_png
from .labels import bit_names, legend_below, row_name, row_names

LARGEST_DROP = 15.0  # points below float that a plot still resolves; what lies lower is marked at its edge

LEGEND_COLUMNS = 5
WHISKERS = (
    'whiskers are the 95 % bootstrap interval of the difference to float on the same resampled test images; one that '
    'reaches the dashed line is not told apart from float.'
)


def accuracy_figure(study: Study, rows: list[Row]) -> tuple[bytes, str]:
    """Return a dot per recipe and number of bits with its interval: models below each other, metrics side by side."""
    names, metrics = row_names(study, rows), study.metrics
    height = len(study.detectors) * (1.0 + 0.26 * len(names))
    figure, axes = new_figure(len(study.detectors), len(metrics), 5 * len(metrics), max(height, 3), sharey='row')
    for line, detector in zip(axes, study.detectors, strict=True):
        own = [row for row in rows if row.detector == detector]
        for panel, metric in zip(line, metrics, strict=True):
            _dots(panel, study, own, names, metric.key)
            panel.set_title(f'{detector.title}, {metric.name}')
            panel.set_xlabel(f'{metric.name}, percent')
    legend_below(figure, axes[0, 0])
    return to_png(
        figure
    ), f'{_measures(metrics)} by recipe and bits; {WHISKERS} Values far below float are written at the left edge.'


def _measures(metrics: Sequence[Metric]) -> str:
    """Return what a caption calls the metrics: AP of boxes and of masks is AP."""
    return ' and '.join(dict.fromkeys(metric.short for metric in metrics))


def _dots(panel: Axes, study: Study, rows: list[Row], names: list[str], metric: str) -> None:
    baseline = _float_row(rows)
    edge = max(baseline.measured(metric).value - LARGEST_DROP, 0) if baseline else 0
    for index, bits in enumerate(bit_names(study)):
        shift = 0.18 * (index - (len(study.bits) - 1) / 2)
        colour = COLOURS[index % len(COLOURS)]
        own = [row for row in rows if row.bits == bits and row.measured(metric) is not None]
        shown = [(names.index(row_name(study, row)) + shift, _against_float(row, baseline, metric)) for row in own]
        inside = [(y, one) for y, one in shown if one.value >= edge]
        errors = [[one.value - one.low for _, one in inside], [one.high - one.value for _, one in inside]]
        panel.errorbar(
            [one.value for _, one in inside], [y for y, _ in inside], xerr=errors, fmt=MARKERS[index % len(MARKERS)],
            color=colour, markersize=4.5, linewidth=1, label=bits,
        )  # fmt: skip
        for y, one in shown:
            if one.value < edge:
                panel.annotate(f'◂ {one.value:.1f}', (edge, y), color=colour, fontsize=8, va='center')
    if baseline:
        float_line(panel, baseline.measured(metric).value, vertical=True)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)


def _float_row(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.label == FLOAT), None)


def _against_float(row: Row, baseline: Row | None, metric: str) -> Interval:
    """Return a metric with the interval of its difference to float, at the height of the metric."""
    own = row.measured(metric)
    if baseline is None:
        return own
    difference, reference = row.difference(baseline, metric), baseline.measured(metric).value
    return Interval(own.value, reference + difference.low, reference + difference.high)


def seconds_figure(study: Study, rows: list[Row]) -> tuple[bytes, str]:
    """Return the first metric against calibration seconds, a panel per model and number of bits."""
    bits, names, metric = bit_names(study), row_names(study, rows), study.metrics[0]
    height = 3.4 * len(study.detectors) + 0.22 * len(names) / LEGEND_COLUMNS
    figure, axes = new_figure(len(study.detectors), len(bits), 4.6 * len(bits) + 0.6, height, sharex=True)
    for line, detector in zip(axes, study.detectors, strict=True):
        for panel, wanted in zip(line, bits, strict=True):
            own = [row for row in rows if row.detector == detector]
            baseline = _float_row(own)
            edge = max(baseline.measured(metric.key).value - LARGEST_DROP, 0) if baseline else 0
            shown = [row for row in own if row.bits == wanted and row.seconds]
            _scatter(panel, shown, study, names, metric.key, edge)
            if baseline:
                float_line(panel, baseline.measured(metric.key).value, vertical=False)
            _widen(panel)
            panel.set_title(f'{detector.title}, {wanted}')
            panel.set_xlabel('calibration, seconds')
            panel.set_ylabel(f'{metric.name}, percent')
    handles = [Line2D([], [], linestyle='', markersize=6, label=name, **_style(i)) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc='outside lower center', ncols=LEGEND_COLUMNS)
    jobs = sorted({result['provenance']['jobs'] for row in rows for result in row.results})
    load = f', measured with {" or ".join(map(str, jobs))} cell(s) side by side'
    what = metric.name[0].upper() + metric.name[1:]
    caption = f'{what} against seconds of calibration{load}; the dashed line is float.'
    return to_png(figure), f'{caption} What lies far below it is drawn at the bottom with its {metric.short} beside.'


def _style(index: int) -> dict[str, str]:
    """Return colour and marker of a recipe: every pair occurs once before one repeats."""
    count = len(MARKERS)
    return {'color': COLOURS[index % len(COLOURS)], 'marker': MARKERS[(index + index // count) % count]}


def _scatter(panel: Axes, rows: list[Row], study: Study, names: list[str], metric: str, edge: float) -> None:
    panel.set_xscale('log')
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter('{x:g}')
    panel.xaxis.set_minor_formatter(NullFormatter())
    for row in rows:
        value = row.measured(metric).value
        style = _style(names.index(row_name(study, row)))
        panel.plot(row.seconds, max(value, edge), linestyle='', markersize=6, **style)
        if value < edge:
            panel.annotate(f' {value:.1f}', (row.seconds, edge), color=style['color'], fontsize=8, va='center')


def _widen(panel: Axes) -> None:
    """Show at least one point, so that differences far below the noise do not look like any."""
    low, high = panel.get_ylim()
    missing = max(1.0 - (high - low), 0.0) / 2
    panel.set_ylim(low - missing, high + missing)


def curve_figure(study: Study, rows: list[Row]) -> tuple[bytes, str]:
    """Return metrics along a parameter, a line per recipe or number of bits: models below each other."""
    metrics = study.metrics
    figure, axes = new_figure(len(study.detectors), len(metrics), 4.5 * len(metrics), 3.1 * len(study.detectors) + 0.3)
    for line, detector in zip(axes, study.detectors, strict=True):
        own = [row for row in rows if row.detector == detector]
        for panel, metric in zip(line, metrics, strict=True):
            _lines(panel, own, metric.key)
            baseline = _float_row(own)
            if baseline and baseline.measured(metric.key):
                float_line(panel, baseline.measured(metric.key).value, vertical=False)
            _parameter_axis(panel, study, own)
            panel.set_title(f'{detector.title}, {metric.name}')
            panel.set_ylabel(f'{metric.name}, percent')
    legend_below(figure, axes[0, 0])
    return to_png(figure), f'{_measures(metrics)} along {study.curve["label"]}; {WHISKERS}'


def _lines(panel: Axes, rows: Sequence[Row], metric: str) -> None:
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for row in rows:
        if row.label == FLOAT or row.measured(metric) is None:
            continue
        name = f'{row.recipe} {row.bits}' if row.x is not None else f'{row.label} {row.bits}'
        lines.setdefault(name, []).append((_position(row), _against_float(row, _float_row(rows), metric)))
    for index, (name, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        found = [one for _, one in points]
        errors = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
        panel.errorbar(
            [x for x, _ in points], [one.value for one in found], yerr=errors, marker=MARKERS[index % len(MARKERS)],
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
