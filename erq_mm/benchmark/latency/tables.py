"""Latency results as JSON values and as Markdown."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from .engines import REFERENCE
from .timing import speedup


@dataclass
class Result:
    """One subject at one bit-width.

    Attributes:
        subject: its name. bits: such as `W8A8`.
        milliseconds: engine -> CPU time of every round.
        unavailable: engine -> why it was not run.
        notes: engine -> what it did otherwise than planned.
        peak_mb: engine -> peak memory above the interpreter, MB.
        profiles: engine -> operator type -> ms.
    """

    subject: str
    bits: str
    milliseconds: dict[str, list[float]]
    unavailable: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, ratios included."""
        return dict(vars(self)) | {'ratios': self.ratios(REFERENCE)}

    def ratios(self, reference: str) -> dict[str, tuple[float, float, float]]:
        """Return engine -> how many times as fast as `reference`: median, least, largest; empty without it."""
        if reference not in self.milliseconds:
            return {}
        return {name: speedup(self.milliseconds[reference], spent) for name, spent in self.milliseconds.items()}


def markdown(results: list[Result], machine: dict[str, Any], threads: int) -> str:
    """Return the page: a table of times per subject, then notes, memory and profiles."""
    lines = [
        f'Measured on {machine["processor"]} ({machine["instructions"]}), {threads} thread; CPU time of the process, '
        'engines taking turns, median over rounds, in brackets the slowest and fastest round.\n'
    ]
    for result in results:
        lines += [f'### {result.subject}, {result.bits}\n', *_times(result), '']
        if result.peak_mb:
            lines += ['Peak memory above the interpreter, MB: ' + _listed(result.peak_mb, '.0f') + '.\n']
        for name, profile in result.profiles.items():
            lines += [f'{name}, share of the time by operator: {_shares(profile)}.\n']
        lines += [f'- {name}: {reason}' for name, reason in result.unavailable.items()]
        lines += [f'- {name}: {note}' for name, notes in result.notes.items() for note in notes]
        lines.append('')
    return '\n'.join(lines)


def _times(result: Result) -> list[str]:
    against = [name for name in (REFERENCE, 'PyTorch fp32', 'OV bf16') if name in result.milliseconds]
    header = ['engine', 'CPU ms', *(f'x {name}' for name in against)]
    rows = [f'| {" | ".join(header)} |', '|' + '---|' * len(header)]
    tables = [result.ratios(name) for name in against]
    for name, spent in result.milliseconds.items():
        cells = [
            name,
            f'{statistics.median(spent):.0f}',
            *('{:.2f} ({:.2f}-{:.2f})'.format(*table[name]) for table in tables),
        ]
        rows.append(f'| {" | ".join(cells)} |')
    return rows


def _shares(profile: dict[str, float], least: float = 0.01) -> str:
    total = sum(profile.values()) or 1.0
    shares = sorted(((value / total, name) for name, value in profile.items()), reverse=True)
    return ', '.join(f'{name} {100 * share:.0f} %' for share, name in shares if share >= least)


def _listed(values: dict[str, float], form: str) -> str:
    return ', '.join(f'{name} {value:{form}}' for name, value in values.items())
