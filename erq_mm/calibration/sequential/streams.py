"""Forwards that stop where a unit begins and go on from there, so that a unit can be fitted on all images at once.

Every forward is a greenlet: it keeps what it needs on its own stack, whatever the model does between two units, and no
part of the model runs twice. Only one runs at a time.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from ..task import CalibrationTask


@dataclass(frozen=True)
class Stop:
    """The entrance of a unit: its name, and the arguments it is called with."""

    unit: str
    args: tuple[Any, ...]
    keywords: dict[str, Any]


class _Forward(greenlet):
    """A forward of a group of images that hands every `Stop` to whoever runs it."""

    def __init__(self, run: Callable[[], None], index: int) -> None:
        super().__init__(run)
        self.index = index


def may_pause() -> bool:
    """Whether the code that asks runs in a forward that others interrupt, so that what it holds weighs many times."""
    return isinstance(getcurrent(), _Forward)


class Streams:
    """The forwards of all groups of calibration images through one model, side by side.

    Args:
        model: in eval mode.
        task: the images; its forwards may be interrupted by one another.
        groups: of image indices; each is one forward.
        units: names of the modules to stop at, each called once in a forward.

    Attributes:
        stops: where every forward is now; None once it has ended.
        changes: unit -> what its first argument has become since a forward stopped there.
        additions: (unit, forward) -> what appends rows to its first argument before the forward goes on.
    """

    def __init__(
        self, model: nn.Module, task: CalibrationTask, groups: Sequence[Sequence[int]], units: Collection[str]
    ) -> None:
        self.model, self.done = model, set[str]()
        self.changes: dict[str, Callable[[Tensor], Tensor]] = {}
        self.additions: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {}
        self._handles = [
            model.get_submodule(unit).register_forward_pre_hook(self._gate(unit), with_kwargs=True, prepend=True)
            for unit in units
        ]
        self._forwards = [
            _Forward(lambda group=group: task.forward_group(model, group), index) for index, group in enumerate(groups)
        ]
        self.stops: list[Stop | None] = [None] * len(groups)

    def start(self) -> None:
        """Run every forward to its first stop."""
        for index in range(len(self._forwards)):
            self.advance(index)

    def advance(self, index: int) -> Stop | None:
        """Let one forward go on to its next stop, and return the one that it leaves."""
        left = self.stops[index]
        stop = self._forwards[index].switch()
        self.stops[index] = stop if isinstance(stop, Stop) else None
        return left

    def close(self) -> None:
        """End all forwards, also those that are not through, and detach from the model."""
        for handle in self._handles:
            handle.remove()
        for forward in self._forwards:
            if forward and not forward.dead:
                forward.throw()  # unwinds its stack
        self._forwards, self.stops = [], []

    def _gate(self, unit: str) -> Callable[[nn.Module, tuple, dict], tuple[tuple, dict] | None]:
        def stop(_module: nn.Module, args: tuple, keywords: dict) -> tuple[tuple, dict] | None:
            current = getcurrent()
            if not isinstance(current, _Forward) or unit in self.done:
                return None
            current.parent.switch(Stop(unit, args, keywords))
            altered = [self.changes.get(unit), self.additions.pop((unit, current.index), None)]
            if not any(altered):
                return None
            first, *others = args
            for alter in filter(None, altered):
                first = alter(first)
            return (first, *others), keywords

        return stop


@contextmanager
def counted_calls(model: nn.Module, names: Collection[str]) -> Iterator[Counter[str]]:
    """Count the calls of modules while the block runs; the names come in the order of the first calls."""
    counts: Counter[str] = Counter()
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: counts.update((name,)))
        for name in names
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
