"""Run what is missing of several studies, and write what they have to show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cells import Cell, Store
from .document import Picture, Section, html, index, markdown, origin, results_of
from .figures import study_pictures
from .provenance import code_digest
from .results import Row, study_rows
from .scheduler import Failure
from .storage import write_whole
from .study import Study
from .tables import cells_csv, study_tables


def cells_by_key(studies: Sequence[Study]) -> dict[str, Cell]:
    """Return all cells of the studies, each once, in the order of the studies."""
    return {cell.key: cell for study in studies for cell in study.cells()}


def missing_cells(studies: Sequence[Study], store: Store, refresh: bool) -> list[Cell]:
    """Return the cells to run.

    Args:
        refresh: also those that were measured before the last change of the code.
    """
    cells = cells_by_key(studies).values()
    return [cell for cell in cells if not store.is_done(cell) or (refresh and _is_stale(store, cell))]


def _is_stale(store: Store, cell: Cell) -> bool:
    return store.read(cell)['provenance']['code'] != code_digest()


@dataclass(frozen=True)
class Written:
    """What `write_studies` made of a study."""

    section: Section
    rows: list[Row]


def write_studies(studies: Sequence[Study], store: Store, out: Path, commands: Mapping[str, str]) -> list[Written]:
    """Write NAME.md, NAME.csv and PNGs of every study, and README.md, the list of all pages in `out`.

    One HTML page has all studies of the call: NAME.html for one, index.html for several.

    Args:
        commands: study name -> the command that makes it, for its page.
    """
    written = [_write_study(study, store, Path(out), commands[study.name]) for study in studies]
    sections = [one.section for one in written]
    write_whole(html_path(studies, out), html(sections))
    write_whole(Path(out) / 'README.md', index(Path(out)))
    return written


def html_path(studies: Sequence[Study], out: Path) -> Path:
    """Return where the HTML page of these studies is."""
    return Path(out) / (f'{studies[0].name}.html' if len(studies) == 1 else 'index.html')


def _write_study(study: Study, store: Store, out: Path, command: str) -> Written:
    rows = study_rows(study, store)
    pictures: list[Picture] = study_pictures(study, rows, store)
    results = results_of(rows) or [found for cell in study.cells() if (found := store.read(cell))]
    section = Section(study, study_tables(study, rows), pictures, origin(results, code_digest()))
    for picture in pictures:
        write_whole(out / picture.file_name, picture.png)
    if study.recipes:
        write_whole(out / f'{study.name}.csv', cells_csv(study, rows))
    write_whole(out / f'{study.name}.md', markdown(section, command))
    return Written(section, rows)


def failure_text(failures: Sequence[Failure]) -> str:
    """Return what the user needs to know about failed cells: which, why, and where the whole log is."""
    lines = [f'{len(failures)} cell(s) failed; the others are written. Run the same command again to retry them.']
    cells_by_tail: dict[str, list[str]] = {}
    for failure in failures:
        cells_by_tail.setdefault(failure.tail, []).append(f'{failure.cell.key} (log: {failure.log})')
    for tail, cells in cells_by_tail.items():  # one cause often ends many cells
        lines += ['', *cells, tail]
    return '\n'.join(lines)
