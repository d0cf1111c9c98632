"""A study: a grid of cells and how its results are shown, read from a small config file."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..analysis.error_ratios import BASE, COMPONENTS
from ..calibration.recipes.base import IMAGE_GRIDS
from ..engine.shipped_configs import is_shipped, shipped_config
from .cells import KINDS, Cell
from .choices import (
    RecipeChoice,
    check_images,
    check_scopes,
    check_seeds,
    check_test_images,
    choose_recipe,
    parse_bits,
    unknown_key_error,
)
from .detectors import Detector, resolve_detector
from .fidelity import PARTS
from .protocols import METRICS, Metric
from .published import TABLES

FLOAT = 'float'
MEASURED = tuple(METRICS) + tuple(f'{key}_difference' for key in METRICS)
FIDELITY = ('fidelity', 'fidelity_share') + tuple(f'fidelity_{part}' for part in PARTS)
COLUMNS = (*MEASURED, *FIDELITY, 'seconds', 'memory', 'size', 'operations')
FIGURES = ('accuracy', 'fidelity', 'seconds', 'curve', 'error_ratios')
ANALYSES = KINDS[1:]
LISTS = ('detectors', 'recipes', 'bits', 'images', 'seeds', 'scopes', 'columns', 'figures', 'analyses')
DEFAULTS: dict[str, Any] = {
    'title': '',
    'note': '',
    'detectors': ['mask', 'cascade'],
    'recipes': [],
    'bits': ['W4A4'],
    'images': [16],
    'seeds': [0],
    'scopes': ['linears'],
    'image': IMAGE_GRIDS[0],
    'test_images': None,
    'baseline': FLOAT,
    'columns': None,
    'figures': ['accuracy', 'fidelity'],
    'analyses': [],
    'published': None,
    'curve': None,
}


@dataclass(frozen=True)
class Study:
    """A checked grid.

    Attributes:
        name: of the files that come out.
        title, note: heading, and a sentence or two below it.
        image: grid of the image, of recipes that do not say it themselves: `pixels` or `published`.
        test_images: number of generated images that evaluate the demo's detectors; None means the demo's own.
        baseline: label of the row the differences are against.
        columns, figures, analyses: what is shown, of `COLUMNS`, `FIGURES`, `ANALYSES`.
        published: key of the table of published figures, or None.
        curve: `label` of the x axis and optional `log`; x is a recipe's `x`, or the number of images without it.
    """

    name: str
    title: str
    note: str
    detectors: tuple[Detector, ...]
    recipes: tuple[RecipeChoice, ...]
    bits: tuple[tuple[int, int], ...]
    images: tuple[int, ...]
    seeds: tuple[int, ...]
    scopes: tuple[str, ...]
    image: str
    test_images: int | None
    baseline: str
    columns: tuple[str, ...]
    figures: tuple[str, ...]
    analyses: tuple[str, ...]
    published: str | None
    curve: Mapping[str, Any] = field(hash=False)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What its models are measured by."""
        return self.detectors[0].protocol.metrics

    def cells(self) -> list[Cell]:
        """Return all cells: the float detectors first, analyses last."""
        cells = [Cell('accuracy', detector) for detector in self.detectors if self.recipes]
        for scope, detector, choice, bits, images, seed in itertools.product(
            self.scopes, self.detectors, self.recipes, self.bits, self.images, self.seeds
        ):
            cells.append(self.cell(detector, choice, bits, images, seed, scope))
        if 'error_ratios' in self.figures:
            runs = (BASE, *(component.options for component in COMPONENTS))
            cells += [component_cell(self, detector, options) for detector in self.detectors for options in runs]
        cells += [self.analysis_cell(detector, kind) for detector in self.detectors for kind in self.analyses]
        return cells

    def cell(
        self, detector: Detector, choice: RecipeChoice, bits: tuple[int, int], images: int, seed: int, scope: str
    ) -> Cell:
        """Return one cell of the grid."""
        return Cell('accuracy', detector, choice.recipe, *bits, images, seed, scope)

    def analysis_cell(self, detector: Detector, kind: str) -> Cell:
        """Return an analysis of a detector: at the first bits, number of images, seed and scope of the grid."""
        return Cell(kind, detector, None, *self.bits[0], self.images[0], self.seeds[0], self.scopes[0])


def component_cell(study: Study, detector: Detector, options: Mapping[str, Any]) -> Cell:
    """Return the run of `erq` with these options, at the first bits, number of images, seed and scope of the grid."""
    recipe = choose_recipe({'type': 'erq', **options}, study.image).recipe
    return Cell('accuracy', detector, recipe, *study.bits[0], study.images[0], study.seeds[0], study.scopes[0])


def load_study(path: Path, overrides: Mapping[str, Any], root: Path) -> Study:
    """Read and check a grid file, or one of ours by name (`erq_mm::benchmark/table4.py`); `overrides` replace its keys.

    Raises:
        FileNotFoundError, ValueError: naming the file, the thing, its value and the way out.
    """
    path = shipped_config(str(path)) if is_shipped(str(path)) else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'grid file {path} does not exist; ready ones are in configs/benchmark, or erq_mm::benchmark/table4.py'
        )
    try:
        return build_study(path.stem, Config.fromfile(str(path)).to_dict() | dict(overrides), root)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from error


def build_study(name: str, values: Mapping[str, Any], root: Path) -> Study:
    """Check the keys of a grid and return the study; raises as `load_study` does."""
    for key in values:
        if key not in DEFAULTS:
            raise unknown_key_error('unknown key', key, DEFAULTS)
    values = DEFAULTS | dict(values)
    for key in LISTS:
        if not isinstance(values[key], (list, tuple)) and not (key == 'columns' and values[key] is None):
            raise ValueError(f'{key} must be a list, got {values[key]!r}')
    for key in ('detectors', 'bits', 'images', 'seeds', 'scopes'):
        if not values[key]:
            raise ValueError(f'{key} is empty; leave it out for the default {DEFAULTS[key]}')
    if not values['recipes'] and not values['analyses']:
        raise ValueError("nothing to run: give recipes=['rtn', 'repq', 'erq'] or analyses")
    check_test_images(values['test_images'])
    detectors = tuple(resolve_detector(entry, root, values['test_images']) for entry in values.pop('detectors'))
    if values['image'] not in IMAGE_GRIDS:
        raise unknown_key_error('unknown image', str(values['image']), IMAGE_GRIDS)
    values['columns'] = _default_columns(values, detectors) if values['columns'] is None else values['columns']
    study = Study(
        name=name,
        detectors=detectors,
        recipes=tuple(choose_recipe(entry, values['image']) for entry in values.pop('recipes')),
        bits=tuple(parse_bits(text) for text in values.pop('bits')),
        curve=_check_curve(values.pop('curve')),
        title=values.pop('title') or name,
        **{key: tuple(value) if key in LISTS else value for key, value in values.items()},
    )
    _check(study)
    return study


def _default_columns(values: Mapping[str, Any], detectors: Sequence[Detector]) -> list[str]:
    """Return what the models are measured by, its differences, fidelity and time, where anything is measured at all."""
    if not values['recipes']:
        return []
    keys = [metric.key for metric in detectors[0].protocol.metrics]
    return [*keys, *(f'{key}_difference' for key in keys), 'fidelity', 'seconds']


def _check(study: Study) -> None:
    check_images(study.images, study.recipes)
    check_seeds(study.seeds)
    check_scopes(study.scopes)
    for what, chosen, allowed in (
        ('column', study.columns, COLUMNS),
        ('figure', study.figures, FIGURES),
        ('analysis', study.analyses, ANALYSES),
        ('published table', [study.published] if study.published else [], TABLES),
    ):
        for key in chosen:
            if key not in allowed:
                raise unknown_key_error(f'unknown {what}', str(key), allowed)
    labels = [choice.label for choice in study.recipes]
    for field_name, names in (('recipe', labels), ('detector', [detector.name for detector in study.detectors])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f'{field_name} {twice[0]!r} is in the grid twice; give one of them another label or name')
    if study.recipes and len({detector.protocol for detector in study.detectors}) > 1:
        measures = {one.name: [metric.name for metric in one.protocol.metrics] for one in study.detectors}
        raise ValueError(f'a grid compares models of one task, got {measures}; give each task a grid of its own')
    if study.recipes and study.baseline not in (FLOAT, *labels):
        raise unknown_key_error('unknown baseline', study.baseline, [FLOAT, *labels])


def _check_curve(curve: Any) -> dict[str, Any]:
    curve = dict(curve or {})
    for key in curve:
        if key not in ('label', 'log'):
            raise unknown_key_error('unknown key of curve', key, ('label', 'log'))
    return {'label': 'calibration images', 'log': False} | curve
