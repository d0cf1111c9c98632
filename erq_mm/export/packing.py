"""Codes of 2 to 8 bits, packed without gaps into 32-bit words (the layout `pack-quantized` of compressed-tensors)."""

import numpy as np
import torch
from torch import Tensor

WORD = 32
CODES_PER_CHUNK = 2**22  # a code takes a byte per bit while it is packed


def words(count: int, bits: int) -> int:
    """Return how many 32-bit words `count` codes take."""
    return -(-count * bits // WORD)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return codes (rows, columns), 0..2**bits - 1, as int32 (rows, words): every row a stream of bits, lowest first.

    Raises:
        ValueError: a code outside that range.
    """
    codes = codes.detach().cpu()
    if codes.numel() and not (0 <= int(codes.min()) and int(codes.max()) < 2**bits):
        raise ValueError(f'codes of {bits} bits lie in 0..{2**bits - 1}, got {int(codes.min())}..{int(codes.max())}')
    rows, columns = codes.shape
    packed = np.zeros((rows, words(columns, bits) * 4), np.uint8)
    for start, stop in _chunks(rows, columns):
        values = codes[start:stop].numpy().astype(np.uint8)
        stream = (values[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
        found = np.packbits(stream.reshape(len(values), -1), axis=1, bitorder='little')
        packed[start:stop, : found.shape[1]] = found
    return torch.from_numpy(packed.view('<i4').astype(np.int32, copy=False))


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Return the codes (rows, columns), uint8, of what `pack` gave.

    Raises:
        ValueError: another number of words than `columns` codes take.
    """
    if packed.dtype != torch.int32 or packed.dim() != 2 or packed.shape[1] != words(columns, bits):
        raise ValueError(
            f'{columns} codes of {bits} bits take int32 (rows, {words(columns, bits)}), '
            f'got {packed.dtype} {tuple(packed.shape)}'
        )
    data = np.ascontiguousarray(packed.cpu().numpy().astype('<i4', copy=False)).view(np.uint8)
    codes = np.zeros((len(data), columns), np.uint8)
    for start, stop in _chunks(len(data), columns):
        stream = np.unpackbits(data[start:stop], axis=1, count=columns * bits, bitorder='little')
        powers = (2 ** np.arange(bits)).astype(np.uint8)
        codes[start:stop] = (stream.reshape(stop - start, columns, bits) * powers).sum(2, dtype=np.uint8)
    return torch.from_numpy(codes)


def _chunks(rows: int, columns: int) -> list[tuple[int, int]]:
    step = max(1, CODES_PER_CHUNK // max(columns, 1))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
