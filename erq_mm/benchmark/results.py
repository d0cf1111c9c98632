"""Rows of measured figures: one configuration on one detector, its seeds averaged, with paired bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.bootstrap import REPLICATES, SEED, Interval, image_weights, interval
from ..analysis.operations import bit_operations, product_bits
from .cells import Cell, Store
from .choices import RecipeChoice
from .detectors import Detector
from .fidelity import MEAN, fidelity_of
from .protocols import METRICS
from .storage import write_arrays
from .study import FLOAT, Study

FLOAT_CHOICE = RecipeChoice(FLOAT, FLOAT, FLOAT)


@dataclass(frozen=True)
class Row:
    """One configuration on one detector.

    Attributes:
        label: what tables call it. recipe: the recipe's name, `float` for the float detector.
        results: of the cells that are there, one per seed.
        replicates: stored name of a metric -> percent of every resample, mean over seeds, (replicates,).
        macs: of the detector, if they were counted.
    """

    detector: Detector
    label: str
    recipe: str
    bits: str
    images: int | None
    scope: str
    x: float | None
    results: tuple[Mapping[str, Any], ...] = field(repr=False)
    replicates: Mapping[str, NDArray] = field(repr=False)
    macs: Mapping[str, int] | None = field(default=None, repr=False)

    @property
    def attributes(self) -> dict[str, Any]:
        """What published figures are matched with."""
        return {key: getattr(self, key) for key in ('recipe', 'label', 'bits', 'images', 'scope')}

    def measured(self, metric: str) -> Interval | None:
        """Return a metric (a key of `METRICS`) in percent with its interval, None if it was not measured."""
        stored = METRICS[metric].stored
        values = [result['measured'][stored] for result in self.results if stored in result['measured']]
        return interval(float(np.mean(values)), self.replicates[stored]) if values else None

    def difference(self, other: 'Row', metric: str) -> Interval | None:
        """Return a metric minus another row's; the interval is of the difference on the same resampled images."""
        own, others = self.measured(metric), other.measured(metric)
        if own is None or others is None:
            return None
        stored = METRICS[metric].stored
        paired = self.replicates[stored] - other.replicates[stored]
        return interval(own.value - others.value, paired)

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        """The quantization reports; none for the float detector."""
        return [result['report'] for result in self.results if result['report']]

    @property
    def seconds(self) -> float | None:
        """Seconds of calibration, mean over seeds."""
        return _mean([report['seconds']['total'] for report in self.reports])

    def fidelity(self, part: str = MEAN) -> float | None:
        """Return the unexplained variance of a part of the model, of 1, or the mean over parts (see `fidelity_of`)."""
        return fidelity_of(self.results, part)

    @property
    def memory_mb(self) -> float | None:
        """Peak memory of calibration in MB, mean over seeds."""
        return _mean([report['peak_memory_bytes'] / 2**20 for report in self.reports])

    @property
    def size_mb(self) -> float | None:
        """MB of the packed weights of the quantized layers."""
        return _mean([report['size_bytes'] / 2**20 for report in self.reports])

    @cached_property
    def giga_bit_operations(self) -> float | None:
        """Billions of bit operations of one image, float layers included."""
        if self.macs is None:
            return None
        bits = product_bits(self.reports[0]['layers']) if self.reports else {}
        return bit_operations(self.macs, bits) / 1e9


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def study_rows(study: Study, store: Store) -> list[Row]:
    """Return the rows of a study, detector by detector, each led by the float detector; missing cells give no row."""
    rows = []
    for detector in study.detectors:
        macs = _macs(study, store, detector)
        rows += _row(store, FLOAT_CHOICE, [Cell('accuracy', detector)], None, '', macs)
        for scope in study.scopes:
            for bits in study.bits:
                for choice in study.recipes:
                    for images in study.images:
                        cells = [study.cell(detector, choice, bits, images, seed, scope) for seed in study.seeds]
                        rows += _row(store, choice, cells, images, scope, macs)
    return rows


def _macs(study: Study, store: Store, detector: Detector) -> Mapping[str, int] | None:
    if 'operations' not in study.analyses:
        return None
    counted = store.read(study.analysis_cell(detector, 'operations'))
    return counted['macs'] if counted else None


def _row(
    store: Store,
    choice: RecipeChoice,
    cells: list[Cell],
    images: int | None,
    scope: str,
    macs: Mapping[str, int] | None,
) -> list[Row]:
    done = [cell for cell in cells if store.is_done(cell)]
    if not done:
        return []
    first = cells[0]
    bits = FLOAT if first.recipe is None else f'W{first.w_bits}A{first.a_bits}'
    replicates = [bootstrap(store, cell) for cell in done]
    averaged = {stored: np.mean([r[stored] for r in replicates], axis=0) for stored in replicates[0]}
    results = tuple(store.read(cell) for cell in done)
    return [Row(first.detector, choice.label, choice.type, bits, images, scope, choice.x, results, averaged, macs)]


def bootstrap(store: Store, cell: Cell) -> dict[str, NDArray]:
    """Return stored name of a metric -> percent of every resample, computed once per cell and kept beside it."""
    path = store.path(cell, f'.bootstrap{REPLICATES}-{SEED}.npz')
    if path.is_file() and path.stat().st_mtime >= store.path(cell, '.npz').stat().st_mtime:
        with np.load(path) as stored:
            return dict(stored)
    found = cell.detector.protocol.percent(store.arrays(cell), image_weights)
    write_arrays(path, found)
    return found


def baseline_row(study: Study, rows: list[Row], row: Row) -> Row | None:
    """Return the row that differences of `row` are against: same detector, bits, images and scope, if it is there."""
    for other in rows:
        same_detector = other.detector == row.detector and other.label == study.baseline
        same_rest = (other.bits, other.images, other.scope) == (row.bits, row.images, row.scope)
        if same_detector and (study.baseline == FLOAT or same_rest):
            return other
    return None
