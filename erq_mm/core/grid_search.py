"""Joint search of a grid's scale and shape: coarse over the whole lattice, then finer around the best candidates."""

from collections.abc import Callable
from dataclasses import dataclass

from .line_search import Error, evaluate_all

Candidate = tuple[float, float]


@dataclass(frozen=True)
class Lattice:
    """The candidates: every scale with every shape.

    Attributes:
        scales: the most likely first (it is always among those of the coarse step).
        shapes: in order, so that neighbours are alike.
    """

    scales: tuple[float, ...]
    shapes: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.scales) * len(self.shapes)


def progressive_search(lattice: Lattice, error: Callable[[Candidate], Error], beam: int, steps: int) -> Candidate:
    """Return the candidate (scale, shape) of least error that is found (AdaLog's fast progressive combining search).

    Step i of `steps` walks the lattice in strides of 2**(steps - 1 - i): the first over all of it, each later one over
    the neighbours of the `beam` best so far. One step is the exhaustive search. No candidate is evaluated twice; of
    equal errors the one found first wins.

    Args:
        error: called with (scale, shape), e.g. a squared error.
        beam, steps: positive.

    Raises:
        ValueError: `beam` or `steps` is not a positive integer.
    """
    check_positive('beam', beam)
    check_positive('steps', steps)
    rows, columns = len(lattice.scales), len(lattice.shapes)
    errors: dict[tuple[int, int], float] = {}
    stride = 2 ** (steps - 1)
    wanted = [(i, j) for i in range(0, rows, stride) for j in range(0, columns, stride)]
    while True:
        new = [position for position in dict.fromkeys(wanted) if position not in errors]
        found = evaluate_all([(lattice.scales[i], lattice.shapes[j]) for i, j in new], error)
        errors.update(zip(new, found, strict=True))
        best = sorted(errors, key=errors.__getitem__)[:beam]
        if stride == 1:
            return lattice.scales[best[0][0]], lattice.shapes[best[0][1]]
        stride //= 2
        moves = (-stride, 0, stride)
        wanted = [
            (min(max(i + di, 0), rows - 1), min(max(j + dj, 0), columns - 1))
            for i, j in best
            for di in moves
            for dj in moves
        ]


def check_positive(name: str, value: int) -> None:
    """Raise ValueError unless `value` is an integer of at least 1; `name` says which option it is."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be a positive integer, got {value!r}')
