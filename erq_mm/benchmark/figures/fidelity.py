"""How much of the float model's outputs recipes leave unexplained."""

from matplotlib.axes import Axes

from ..fidelity import PARTS
from ..results import Row
from ..study import Study
from .canvas import COLOURS, MARKERS, new_figure, to_png
from .labels import bit_names, legend_below, row_name, row_names


def fidelity_figure(study: Study, rows: list[Row]) -> tuple[bytes, str] | None:
    """Return a dot per recipe and number of bits with the range of its parts, models side by side; None without any."""
    shown = [row for row in rows if row.reports and row.fidelity()]
    if not shown:
        return None
    names = row_names(study, shown)
    height = max(1.0 + 0.26 * len(names), 3)
    figure, axes = new_figure(1, len(study.detectors), 5 * len(study.detectors), height, sharey='row')
    for panel, detector in zip(axes[0], study.detectors, strict=True):
        _dots(panel, study, [row for row in shown if row.detector == detector], names)
        panel.set_title(detector.title)
        panel.set_xlabel('unexplained variance, percent')
    legend_below(figure, axes[0, 0])
    return to_png(figure), (
        "Variance of the float model's outputs that a quantized model leaves unexplained, on images that did not "
        'calibrate: the dot is the mean over the parts of the model, the line reaches from its best to its worst part.'
    )


def _dots(panel: Axes, study: Study, rows: list[Row], names: list[str]) -> None:
    panel.set_xscale('log')
    panel.xaxis.set_major_formatter('{x:g}')
    for index, bits in enumerate(bit_names(study)):
        shift = 0.18 * (index - (len(study.bits) - 1) / 2)
        style = {'color': COLOURS[index % len(COLOURS)], 'marker': MARKERS[index % len(MARKERS)]}
        own = [row for row in rows if row.bits == bits]
        heights = [names.index(row_name(study, row)) + shift for row in own]
        panel.plot([100 * row.fidelity() for row in own], heights, linestyle='', markersize=4.5, label=bits, **style)
        for row, y in zip(own, heights, strict=True):
            parts = [100 * found for part in PARTS if (found := row.fidelity(part))]
            panel.plot([min(parts), max(parts)], [y, y], color=style['color'], linewidth=1)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
