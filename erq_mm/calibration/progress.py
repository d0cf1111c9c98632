"""Progress of long work, on one shared rich display; silent without one."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar('Item')


def new_progress(enabled: bool = True) -> Progress:
    """Return the display: description, bar, count, time so far and time left. Start it with `with`."""
    columns = (
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, disable=not enabled)


def track(progress: Progress | None, items: Sequence[Item], description: str) -> Iterator[Item]:
    """Yield `items`, showing how many are done."""
    if progress is None:
        yield from items
        return
    task = progress.add_task(description, total=len(items))
    for item in items:
        yield item
        progress.advance(task)
