"""The look that all plots share."""

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; yellow is left out, it is too light for lines
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
GREY = '#777777'
DPI = 130
STYLE = {
    'font.size': 9,
    'axes.titlesize': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.color': '#e6e6e6',
    'axes.axisbelow': True,
    'legend.frameon': False,
}


def shared_style() -> AbstractContextManager[None]:
    """Return the context in which all parts of a plot are made; matplotlib reads its settings part by part."""
    return matplotlib.rc_context(STYLE)


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    """Return a figure without any window behind it, and its axes as a (rows, columns) array; sizes in inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG; without a date or version inside, so that equal plots are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=DPI, metadata={'Software': None})
    return buffer.getvalue()


def float_line(axes: Axes, value: float, vertical: bool) -> None:
    """Mark the float detector's value."""
    draw = axes.axvline if vertical else axes.axhline
    draw(value, color=GREY, linestyle='--', linewidth=1, zorder=1, label='float')
