"""The plots of a study."""

from collections.abc import Callable

from ..cells import Store
from ..document import Picture
from ..results import Row
from ..study import Study
from .accuracy import accuracy_figure, curve_figure, seconds_figure
from .canvas import shared_style
from .fidelity import fidelity_figure
from .inside import distribution_figure, proxy_figure
from .layers import error_ratio_figure

ROW_FIGURES: dict[str, Callable[[Study, list[Row]], tuple[bytes, str] | None]] = {
    'accuracy': accuracy_figure,
    'fidelity': fidelity_figure,
    'seconds': seconds_figure,
    'curve': curve_figure,
}
ANALYSIS_FIGURES = {'distributions': distribution_figure, 'proxy': proxy_figure}


def study_pictures(study: Study, rows: list[Row], store: Store) -> list[Picture]:
    """Return every plot of a study for which there are results."""
    with shared_style():
        return _pictures(study, rows, store)


def _pictures(study: Study, rows: list[Row], store: Store) -> list[Picture]:
    pictures = []
    for name in study.figures:
        if name in ROW_FIGURES and any(row.reports for row in rows):
            drawn = ROW_FIGURES[name](study, rows)
            pictures += [Picture(f'{study.name}_{name}.png', *drawn)] if drawn else []
    for detector in study.detectors:
        if 'error_ratios' in study.figures:
            found = error_ratio_figure(study, detector, store)
            if found is not None:
                pictures.append(Picture(f'{study.name}_{detector.name}_error_ratios.png', *found))
        for kind in study.analyses:
            cell = study.analysis_cell(detector, kind)
            if kind in ANALYSIS_FIGURES and store.is_done(cell):
                png, caption = ANALYSIS_FIGURES[kind](detector, store.read(cell), store.arrays(cell))
                pictures.append(Picture(f'{study.name}_{detector.name}_{kind}.png', png, caption))
    return pictures
