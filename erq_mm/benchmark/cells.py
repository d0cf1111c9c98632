"""A cell of a grid: one detector, quantized one way or analysed, and the files its result lives in."""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.recipes import RecipeLike, resolve_recipe
from .detectors import Detector
from .storage import digest_of

FORMAT = 1
KINDS = ('accuracy', 'operations', 'distributions', 'proxy')


@dataclass(frozen=True)
class Cell:
    """What is run.

    Attributes:
        kind: `accuracy` (evaluate; without a recipe, the float detector) or an analysis of `KINDS`.
        recipe: a name, a dict with options, or a list of steps; None for the float detector.
        w_bits, a_bits, images, seed, scope: of the quantization; not used without a recipe.
    """

    kind: str
    detector: Detector
    recipe: RecipeLike | None = field(default=None, hash=False)
    w_bits: int = 32
    a_bits: int = 32
    images: int = 1
    seed: int = 0
    scope: str = 'linears'

    def decisive(self) -> dict[str, Any]:
        """Return everything that decides the result, the code itself aside (`provenance.code_digest`)."""
        values: dict[str, Any] = {'format': FORMAT, 'kind': self.kind, 'detector': self.detector.digest()}
        if self.recipe is not None:
            recipe = resolve_recipe(self.recipe)
            values['recipe'] = dataclasses.asdict(recipe)
            values['recipe'].pop('note', None)  # says something, decides nothing
            if not recipe.has_exact_pixels('image'):  # as all cells were before there was a choice
                values['recipe'].pop('image')
        if self.recipe is not None or self.kind != 'accuracy':
            values |= {key: getattr(self, key) for key in ('w_bits', 'a_bits', 'images', 'seed', 'scope')}
        return values

    @property
    def name(self) -> str:
        """Readable, not unique."""
        if self.recipe is None:
            what = 'float' if self.kind == 'accuracy' else self.kind
            return f'{self.detector.label}_{what}'
        bits = f'w{self.w_bits}a{self.a_bits}'
        recipe = _recipe_name(self.recipe)
        return f'{self.detector.label}_{recipe}_{bits}_{self.images}img_seed{self.seed}_{self.scope}'

    @property
    def key(self) -> str:
        """Readable and unique: what its files are called."""
        return f'{self.name}-{digest_of(self.decisive())[:10]}'

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Cell':
        """Undo `to_dict`."""
        detector = values['detector']
        restored = Detector(**detector | {'options': tuple(detector['options'])})
        return cls(**values | {'detector': restored})


def _recipe_name(recipe: RecipeLike) -> str:
    if isinstance(recipe, str):
        return recipe
    if not isinstance(recipe, dict):
        return 'steps'
    # published images have no name: all cells were that before there was a choice
    options = [f'{k}={v}' for k, v in recipe.items() if k != 'type' and (k, v) != ('image', 'published')]
    return re.sub(r'[^\w=.+-]', '', '-'.join([str(recipe['type']), *options]))[:80]


class Store:
    """The folder of the cells: `KEY.json` is a result, `KEY.npz` its arrays, `KEY.log` what its process printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, cell: Cell, suffix: str = '.json') -> Path:
        """Return where a file of a cell is or will be."""
        return self.folder / f'{cell.key}{suffix}'

    def is_done(self, cell: Cell) -> bool:
        """Whether the result is there; its JSON is written last."""
        return self.path(cell).is_file()

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return the result, or None."""
        if not self.is_done(cell):
            return None
        result = json.loads(self.path(cell).read_text())
        for old, new in (('ap', 'measured'), ('mmdet_ap', 'reported')):  # as cells were written when all were detectors
            if old in result:
                result[new] = result.pop(old)
        return result

    def arrays(self, cell: Cell) -> dict[str, np.ndarray]:
        """Return the arrays of a result."""
        with np.load(self.path(cell, '.npz')) as stored:
            return dict(stored)
