"""Figures that others published, each with its source; they never mix with measured ones."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TABLES: dict[str, dict[str, Any]] = {
    name: table
    for file in sorted(Path(__file__).parent.glob('*.json'))  # one per data set
    for name, table in json.loads(file.read_text()).items()
}


class Published:
    """A table of published figures, as columns for a table of measured ones.

    Args:
        name: key of a JSON file here: `heading`, `unit`, `columns` (`name`, and the measured models they stand beside,
            `detectors`; all of them without it), `rows` (`match`: attributes of a measured row that must be equal, or
            the `method` that no recipe is; `values`: column -> number, or box and mask AP; `source`; `images` that
            calibrated, if known).
        detector: name of the measured model; columns of others are left out.
    """

    def __init__(self, name: str | None, detector: str) -> None:
        table = TABLES[name] if name else {'columns': [], 'rows': [], 'heading': '', 'unit': ''}
        self._rows, self._unit = table['rows'], table['unit']
        self._names = [c['name'] for c in table['columns'] if detector in c.get('detectors', [detector])]
        self.headings = [f'{table["heading"]}: {column}' for column in self._names]
        self._sources: list[str] = []

    def values(self, row: Mapping[str, Any]) -> list[str]:
        """Return one text per heading for a measured row with attributes `recipe`, `label`, `bits`, `images`."""
        matching = [p for p in self._rows if all(row.get(key) == value for key, value in p['match'].items())]
        return [self._join(column, matching) for column in self._names]

    def _join(self, column: str, rows: Iterable[Mapping[str, Any]]) -> str:
        return '; '.join(f'{_text(p["values"][column])} [{self._mark(p)}]' for p in rows if column in p['values'])

    def _mark(self, published: Mapping[str, Any]) -> int:
        """Return the number of a row's source, in the order of first use."""
        images = f', {published["images"]} calibration image(s)' if 'images' in published else ''
        source = published['source'] + images
        if source not in self._sources:
            self._sources.append(source)
        return self._sources.index(source) + 1

    def notes(self) -> list[str]:
        """Return unit and numbered sources of what `values` has returned so far."""
        if not self._sources:
            return []
        sources = '; '.join(f'[{number}] {source}' for number, source in enumerate(self._sources, 1))
        return [f'Published figures are not ours: {self._unit}. {sources}.']


def _text(value: float | list[float | None]) -> str:
    if not isinstance(value, list):
        return f'{value:g}'
    return ' / '.join('-' if number is None else f'{number:.1f}' for number in value)
