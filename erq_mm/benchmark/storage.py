"""Files that are there whole or not at all, and fingerprints of files."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 2**20


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file through a temporary neighbour and a rename; creates its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole; NaN is refused, because other readers of JSON do not know it."""
    write_whole(path, json.dumps(values, indent=1, allow_nan=False) + '\n')


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz whole."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())


@cache
def file_digest(path: str) -> str:
    """Return the SHA-256 of a file's bytes; a file is read once per process."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_of(values: Any) -> str:
    """Return the SHA-256 of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
