"""Where every token of a feature map goes, as index arithmetic in the graph: windows, shifts, merging, any size.

A feature map is a matrix of rows (height * width, channels). Cutting it into padded, shifted windows is one gather of
its rows and an extra one, which stands for all padding; putting it together again is one gather, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...nn.attention import MASKED
from .graph import GraphBuilder


@dataclass(frozen=True)
class Extent:
    """Height and width of a feature map: values of the graph, int64 scalars."""

    height: str
    width: str


class WindowWriter:
    """Writes the indices; each of one extent and shift once.

    Args:
        side: of a window.
    """

    def __init__(self, graph: GraphBuilder, side: int) -> None:
        self.graph, self.side = graph, side

    def into_windows(self, extent: Extent, shift: int) -> str:
        """Return, for every row of the windows, the row of the map it is: (windows * tokens,); padding is row H W."""

        def write() -> str:
            rows, columns = (self._sources(size, shift) for size in (extent.height, extent.width))
            inside = self._outer(
                'And', *(self._op('Less', i, n) for i, n in ((rows, extent.height), (columns, extent.width)))
            )
            index = self._outer('Add', self._op('Mul', rows, extent.width), columns)
            padding = self._op('Mul', extent.height, extent.width)
            return self._reshape(self._partition(self._op('Where', inside, index, padding), extent), [-1])

        return self._once(('into', extent, shift), write)

    def out_of_windows(self, extent: Extent, shift: int) -> str:
        """Return, for every row of the map, the row of the windows it is: (H W,)."""

        def write() -> str:
            side, tokens = self._int(self.side), self._int(self.side**2)
            across = self._op('Div', self._padded(extent.width), side)
            down, right = (self._targets(size, shift) for size in (extent.height, extent.width))
            row = self._op('Mul', self._op('Mul', self._op('Div', down, side), across), tokens)
            row = self._op('Add', row, self._op('Mul', self._op('Mod', down, side), side))
            column = self._op('Mul', self._op('Div', right, side), tokens)
            column = self._op('Add', column, self._op('Mod', right, side))
            return self._reshape(self._outer('Add', row, column), [-1])

        return self._once(('out', extent, shift), write)

    def mask(self, extent: Extent, shift: int) -> str:
        """Return what is added to the logits of shifted windows, (windows, 1, tokens, tokens)."""

        def write() -> str:
            down, across = (self._bands(size, shift) for size in (extent.height, extent.width))
            regions = self._outer('Add', self._op('Mul', down, self._int(3)), across)
            regions = self._reshape(self._partition(regions, extent), [-1, 1, 1, self.side**2])
            same = self._op('Equal', regions, self._op('Transpose', regions, perm=[0, 1, 3, 2]))
            numbers = (self.graph.constant(np.float32(value), 'mask_value') for value in (0.0, MASKED))
            return self._op('Where', same, *numbers)

        return self._once(('mask', extent, shift), write)

    def _sources(self, size: str, shift: int) -> str:
        """Return the place in the padded map of every place of the shifted one."""
        padded = self._padded(size)
        places = self._op('Range', self._int(0), padded, self._int(1))
        return places if shift == 0 else self._op('Mod', self._op('Add', places, self._int(shift)), padded)

    def _targets(self, size: str, shift: int) -> str:
        """Return the place in the shifted map of every place of the map."""
        places = self._op('Range', self._int(0), size, self._int(1))
        padded = self._padded(size)
        return (
            places
            if shift == 0
            else self._op('Mod', self._op('Add', places, self._op('Sub', padded, self._int(shift))), padded)
        )

    def _bands(self, size: str, shift: int) -> str:
        padded = self._padded(size)
        places = self._op('Range', self._int(0), padded, self._int(1))
        ends = (self._op('Sub', padded, self._int(length)) for length in (self.side, shift))
        first, second = (self._op('Cast', self._op('GreaterOrEqual', places, end), to=7) for end in ends)  # int64
        return self._op('Add', first, second)

    def _padded(self, size: str) -> str:
        """Return the size of whole windows that cover `size`."""

        def write() -> str:
            side = self._int(self.side)
            windows = self._op('Div', self._op('Add', size, self._int(self.side - 1)), side)
            return self._op('Mul', windows, side)

        return self._once(('padded', size), write)

    def _partition(self, grid: str, extent: Extent) -> str:
        """(H, W) of whole windows -> (windows down, windows across, side, side)."""
        side = self._int(self.side)
        down, across = (self._vector(self._op('Div', self._padded(n), side)) for n in (extent.height, extent.width))
        side = self._vector(side)
        cut = self._op('Reshape', grid, self._op('Concat', down, side, across, side, axis=0))
        return self._op('Transpose', cut, perm=[0, 2, 1, 3])

    def _outer(self, kind: str, rows: str, columns: str) -> str:
        """Return `rows[:, None] kind columns[None]`."""
        return self._op(kind, self._op('Unsqueeze', rows, self.graph.constant([1])), columns)

    def _vector(self, scalar: str) -> str:
        return self._reshape(scalar, [1])

    def _reshape(self, value: str, shape: list[int]) -> str:
        return self._op('Reshape', value, self.graph.constant(shape, 'shape'))

    def _int(self, number: int) -> str:
        return self.graph.constant(np.int64(number), 'number')

    def _op(self, kind: str, *inputs: str, **attributes: object) -> str:
        return self.graph.add(kind, *inputs, name=f'index/{kind.lower()}', **attributes)

    def _once(self, key: tuple, write: Callable[[], str]) -> str:
        return self.graph.once((*key, self.side), write)


def merged_extent(graph: GraphBuilder, extent: Extent, step: int) -> Extent:
    """Return the extent after merging `step` x `step` patches, the last ones padded."""

    def merged(size: str) -> str:
        more = graph.add('Add', size, graph.constant(np.int64(step - 1)), name='index/add')
        return graph.add('Div', more, graph.constant(np.int64(step)), name='index/div')

    sizes = (graph.once(('merged', size, step), partial(merged, size)) for size in (extent.height, extent.width))
    return Extent(*sizes)


def into_patches(graph: GraphBuilder, extent: Extent, step: int) -> str:
    """Return the row of the map of every place in every patch, (patches * step * step,); padding is row H W."""

    def op(kind: str, *inputs: str, **attributes: object) -> str:
        return graph.add(kind, *inputs, name=f'index/{kind.lower()}', **attributes)

    zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    merged = merged_extent(graph, extent, step)
    places = []
    for size in (merged.height, merged.width):
        first = op('Mul', op('Range', zero, size, one), graph.constant(np.int64(step)))
        places.append(op('Add', op('Unsqueeze', first, graph.constant([1])), graph.constant(np.arange(step)[None])))
    rows = op('Unsqueeze', places[0], graph.constant([1, 3]))  # (H', 1, step, 1)
    columns = op('Unsqueeze', places[1], graph.constant([1]))  # (W', 1, step)
    inside = op('And', op('Less', rows, extent.height), op('Less', columns, extent.width))
    index = op('Add', op('Mul', rows, extent.width), columns)
    padded = op('Where', inside, index, op('Mul', extent.height, extent.width))
    return op('Reshape', padded, graph.constant([-1], 'shape'))
