"""Sums of outer products, which are symmetric: half of them is enough."""

from torch import Tensor

COLUMNS = 192  # of a block: narrower ones save more products, wider ones are faster products


class GramSum:
    """The running sum of rows^T rows, (columns, columns).

    Only blocks on the diagonal and right of it are summed, little more than half of the work; the others are their
    mirror image, made when the matrix is read.

    Args:
        matrix: zeros, (columns, columns), or a view of them: holds the sum, and nothing else should write to it.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._matrix, self._is_whole = matrix, True

    def add(self, rows: Tensor) -> None:
        """Add rows, (rows, columns)."""
        for start, stop in self._blocks():
            self._matrix[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
        self._is_whole = False

    def whole(self) -> Tensor:
        """Return the matrix itself, both halves of it."""
        if not self._is_whole:
            for start, stop in self._blocks():
                self._matrix[stop:, start:stop] = self._matrix[start:stop, stop:].T
            self._is_whole = True
        return self._matrix

    def _blocks(self) -> list[tuple[int, int]]:
        size = len(self._matrix)
        return [(start, min(start + COLUMNS, size)) for start in range(0, size, COLUMNS)]
