"""What plots call the rows of a study."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results import Row
from ..study import FLOAT, Study


def row_names(study: Study, rows: list[Row]) -> list[str]:
    """Return the names of the quantized rows, each once, in their order."""
    return list(dict.fromkeys(row_name(study, row) for row in rows if row.label != FLOAT))


def row_name(study: Study, row: Row) -> str:
    """Return a row's label, with whatever else the study varies, the bits aside."""
    extra = [f'{row.images} images'] * (len(study.images) > 1) + [row.scope] * (len(study.scopes) > 1)
    return ', '.join([row.label, *extra])


def bit_names(study: Study) -> list[str]:
    """Return the bits of a study as rows call them."""
    return [f'W{w}A{a}' for w, a in study.bits]


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend of one panel below all."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=max(len(labels), 1))
