"""Ways to spoil the file of a saved model: blindly, and by somebody who signs it again."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import erq_mm.export.container as container
from erq_mm.export.container import MARK, Contents, read, write

ODD_VALUES = (None, True, -1, 0, 2**40, 1e308, float('nan'), '', 'x' * 1000, '__import__', [], {}, [[]], {'a': 1})


def spoil(path: Path, source: Path, random_source: random.Random) -> str:
    """Write a spoilt copy of `source` to `path`; returns what was done."""
    kind = random_source.choice(KINDS)
    kind(path, source, random_source)
    return kind.__name__


def flip_bits(path: Path, source: Path, rng: random.Random) -> None:
    data = bytearray(source.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 4, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, source: Path, rng: random.Random) -> None:
    data = source.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def overwrite(path: Path, source: Path, rng: random.Random) -> None:
    data = bytearray(source.read_bytes())
    start, length = rng.randrange(len(data)), rng.randrange(1, 200)
    data[start : start + length] = rng.randbytes(length) if rng.random() < 0.5 else bytes(length)
    path.write_bytes(data)


def insert(path: Path, source: Path, rng: random.Random) -> None:
    data = bytearray(source.read_bytes())
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(rng.randrange(1, 64))
    path.write_bytes(data)


def signed_bytes(path: Path, source: Path, rng: random.Random) -> None:
    """Alter bytes and sign again, so that the parsers see them; what can't be signed any more stays unsigned."""
    data = bytearray(source.read_bytes())
    if source.suffix != '.safetensors':  # without the old signature, as torch.save leaves it
        data = data[: -container.COMMENT_SIZE]
        data[-2:] = bytes(2)
    limit = min(len(data), 4000) if rng.random() < 0.7 else len(data)  # the header above all
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(limit)] = rng.randrange(256)
    path.write_bytes(data)
    try:
        container._sign(path, path.suffix)
    except (AttributeError, ValueError, OverflowError):
        path.write_bytes(data)


def signed_record(path: Path, source: Path, rng: random.Random) -> None:
    """Alter one entry of the record."""
    contents = read(source)
    record = json.loads(contents.texts[MARK])
    _alter(record, rng)
    write(path, Contents(contents.tensors, dict(contents.texts) | {MARK: json.dumps(record)}))


def signed_text(path: Path, source: Path, rng: random.Random) -> None:
    """Alter the text of the record, so that it may be no JSON any more."""
    contents = read(source)
    text = contents.texts[MARK]
    start = rng.randrange(len(text))
    text = text[:start] + rng.choice(('', '[' * 5000, '"', 'ü', '\\', '0', '{')) + text[start + rng.randrange(5) :]
    write(path, Contents(contents.tensors, dict(contents.texts) | {MARK: text}))


def signed_tensors(path: Path, source: Path, rng: random.Random) -> None:
    """Remove, rename, reshape, retype or fill a tensor."""
    contents = read(source)
    tensors = dict(contents.tensors)
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    change: Callable[[], Any] = rng.choice((
        lambda: None,
        lambda: tensors.update({name + 'x': tensor}),
        lambda: tensors.update({name: tensor.reshape(-1)}),
        lambda: tensors.update({name: tensor[:-1] if tensor.dim() else tensor.reshape(1)}),
        lambda: tensors.update({name: tensor.to(rng.choice((torch.float64, torch.int8, torch.bool, torch.float16)))}),
        lambda: tensors.update({name: torch.full_like(tensor, rng.choice((0, 1, 127)))}),
        lambda: tensors.update({name: tensor.float().fill_(float('nan')).to(tensor.dtype)}),
        lambda: tensors.update({name: tensor, rng.choice(('fc1.weight', 'erq_mm', '', 'a.b.c')): torch.zeros(2)}),
    ))  # fmt: skip
    change()
    write(path, Contents(tensors, contents.texts))


KINDS = (flip_bits, cut, overwrite, insert, signed_bytes, signed_record, signed_text, signed_tensors)


def _alter(value: Any, rng: random.Random) -> None:
    """Walk to a random entry and remove, replace or rename it."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.85:
            value = inner
            continue
        action = rng.randrange(3)
        if action == 0:
            del value[key]
        elif action == 1 or not isinstance(value, dict):
            value[key] = rng.choice(ODD_VALUES)
        else:
            value[f'{key}_'] = value.pop(key)
        return
