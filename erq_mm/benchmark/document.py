"""Studies as Markdown files and as one HTML page that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from .results import Row
from .study import Study
from .tables import Table


@dataclass(frozen=True)
class Picture:
    """A plot: its file name, its PNG bytes, and a sentence below it."""

    file_name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """What one study has to show."""

    study: Study
    tables: list[Table]
    pictures: list[Picture]
    origin: list[str]


def origin(results: Sequence[Mapping[str, Any]], current_code: str) -> list[str]:
    """Return sentences on where the figures were measured: machine, versions, commits, threads, jobs.

    Args:
        results: of cells.
        current_code: `provenance.code_digest()`; results of other code are counted.
    """
    records = [result['provenance'] for result in results]
    if not records:
        return ['Nothing has been measured yet.']
    machines = sorted({_machine(record) for record in records})
    versions = sorted({', '.join(f'{k} {v}' for k, v in sorted(r['versions'].items())) for r in records})
    commits = sorted({record['commit'] for record in records})
    loads = sorted({f'{r["threads"]} thread(s), {r["jobs"]} cell(s) side by side' for r in records})
    lines = [
        f'Measured on {"; ".join(machines)}, with {"; ".join(versions)}.',
        f'Commit {", ".join(commits)}; {"; ".join(loads)}.',
    ]
    other = sum(record['code'] != current_code for record in records)
    if other:
        lines.append(
            f'{other} of {len(records)} cells were measured before the last change of the code; --refresh runs them '
            'again.'
        )
    return lines


def _machine(record: Mapping[str, Any]) -> str:
    machine = record['machine']
    return (
        f'{machine["processor"]} ({machine["cores"]} cores, {machine["memory_gb"]:g} GB, {machine["device"]}), '
        f'{machine["system"]}'
    )


def results_of(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Return the results behind rows."""
    return [result for row in rows for result in row.results]


def markdown(section: Section, command: str) -> str:
    """Return the page of a study; pictures are files beside it."""
    study = section.study
    parts = [f'# {study.title}', study.note, f'```\n{command}\n```']
    for table in section.tables:
        parts += [f'## {table.title}', _markdown_table(table), *table.notes]
    for picture in section.pictures:
        parts += [f'![{Path(picture.file_name).stem}]({picture.file_name})', picture.caption]
    parts += ['## Where it was measured', *section.origin]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown_table(table: Table) -> str:
    lines = [table.columns, ['---'] + ['---:'] * (len(table.columns) - 1), *table.rows]
    return '\n'.join('| ' + ' | '.join(text.replace('|', '\\|') for text in line) + ' |' for line in lines)


def index(folder: Path) -> str:
    """Return the list of all pages in a folder, those of earlier calls too, as Markdown."""
    pages = [path for path in sorted(folder.glob('*.md')) if path.name != 'README.md']
    titles = {path.name: path.read_text().partition('\n')[0].removeprefix('# ') for path in pages}
    lines = [f'- [{title}]({name})' for name, title in titles.items()]
    html_pages = ', '.join(f'[{path.name}]({path.name})' for path in sorted(folder.glob('*.html')))
    return '\n'.join(['# Benchmark results', '', *lines, '', f'Pages with sortable tables: {html_pages}', ''])


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.25rem; margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap }
th { cursor: pointer; background: #f4f4f4; white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left } tbody tr:hover { background: #f8f4e8 }
figure { margin: 1.5rem 0 } img { max-width: 100% } figcaption, .note { color: #555; font-size: 13px }
"""
SORT = """
for (const head of document.querySelectorAll('th')) head.onclick = () => {
  const body = head.closest('table').tBodies[0], column = head.cellIndex;
  const sign = head.dataset.sign = -(head.dataset.sign || 1);
  const value = row => {
    const text = row.cells[column].textContent.replace(/,(?=\\d{3})/g, ''), number = parseFloat(text);
    return isNaN(number) ? text : number;
  };
  const order = (a, b) => a === '' ? 1 : b === '' ? -1 : typeof a === typeof b ? (a < b ? 1 : a > b ? -1 : 0) * sign
                          : typeof a === 'number' ? -1 : 1;
  [...body.rows].sort((a, b) => order(value(a), value(b))).forEach(row => body.append(row));
};
"""


def html(sections: Sequence[Section]) -> str:
    """Return one page with all tables (a click on a heading sorts) and pictures inside."""
    entries = ''.join(f'<li><a href="#{s.study.name}">{escape(s.study.title)}</a></li>' for s in sections)
    body = ''.join(_html_section(section) for section in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Benchmark results</title>'
        f'<style>{STYLE}</style></head><body><h1>Benchmark results</h1><ul>{entries}</ul>{body}'
        f'<script>{SORT}</script></body></html>\n'
    )


def _html_section(section: Section) -> str:
    study = section.study
    parts = [f'<h2 id="{study.name}">{escape(study.title)}</h2><p>{escape(study.note)}</p>']
    for table in section.tables:
        parts += [f'<h3>{escape(table.title)}</h3>', _html_table(table)]
        parts += [f'<p class="note">{escape(note)}</p>' for note in table.notes]
    for picture in section.pictures:
        source = f'data:image/png;base64,{base64.b64encode(picture.png).decode()}'
        caption = escape(picture.caption)
        parts.append(f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>')
    parts += [f'<p class="note">{escape(line)}</p>' for line in section.origin]
    return '\n'.join(parts)


def _html_table(table: Table) -> str:
    head = ''.join(f'<th>{escape(column)}</th>' for column in table.columns)
    body = ''.join('<tr>' + ''.join(f'<td>{escape(text)}</td>' for text in row) + '</tr>' for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
