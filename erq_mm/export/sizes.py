"""What a saved model takes, part by part, beside what it took in float32."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .layers import QUANTIZER, packed_keys
from .record import Record


@dataclass(frozen=True)
class SizeRow:
    """One line: how many layers, and bytes in the file and in float32."""

    what: str
    layers: int
    saved: int
    float32: int

    @property
    def ratio(self) -> float:
        """How many times smaller."""
        return self.float32 / self.saved if self.saved else float('nan')


@dataclass(frozen=True)
class SizeTable:
    """A line per bit-width of the quantized layers, one for all of them, one for the float rest, and the file."""

    rows: list[SizeRow]
    quantized: SizeRow
    rest: SizeRow
    file: SizeRow

    def lines(self) -> Iterable[SizeRow]:
        return [*self.rows, self.quantized, self.rest, self.file]


def size_table(record: Record, tensors: Mapping[str, Tensor], file_size: int) -> SizeTable:
    """Return the table of the tensors of a file; a layer is its weight with scales and zero points, and its bias."""
    saved: dict[int, list[int]] = {}
    for name, layer in record.layers.items():
        keys = packed_keys(layer) | {'weight', 'bias'}
        stored = sum(tensors[f'{name}.{key}'].nbytes for key in keys if f'{name}.{key}' in tensors)
        stored += sum(t.nbytes for n, t in tensors.items() if n.startswith((f'{name}.input_', f'{name}.{QUANTIZER}')))
        outputs, parameters = layer.shape[0], 1
        for size in layer.shape:
            parameters *= size
        original = 4 * (parameters + (outputs if layer.has_bias else 0))
        count, small, large = saved.get(layer.weight.bits, (0, 0, 0))
        saved[layer.weight.bits] = [count + 1, small + stored, large + original]
    rows = [SizeRow(f'{bits}-bit layers', *saved[bits]) for bits in sorted(saved)]
    total = [sum(column) for column in zip(*saved.values(), strict=True)]
    quantized = SizeRow('all quantized layers', *total)
    everything = sum(tensor.nbytes for tensor in tensors.values())
    rest = everything - quantized.saved
    return SizeTable(
        rows,
        quantized,
        SizeRow('float layers, norms, tables', 0, rest, rest),
        SizeRow('file', quantized.layers, file_size, quantized.float32 + rest),
    )
