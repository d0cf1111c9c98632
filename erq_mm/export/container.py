"""Files of named tensors and texts: written whole or not at all, read only if not a byte has changed.

Two formats by suffix: `.safetensors`, and `.pth` for tools that know `torch.load` alone. Reading runs no code of the
file: safetensors has none, and pickles are read with `weights_only=True`.
"""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file
from torch import Tensor

SUFFIXES = ('.safetensors', '.pth', '.pt')
MARK = 'erq_mm'  # the text that every file of ours has
NO_DIGEST = '0' * 64
DIGEST_IN_HEADER = re.compile(rb'"sha256":"([0-9a-f]{64})"')
COMMENT = b'erq_mm sha256='
COMMENT_SIZE = len(COMMENT) + len(NO_DIGEST)
LARGEST_HEADER = 100_000_000  # bytes; also the limit of safetensors
# what torch.load of a program without this package would take for the weights, and stumble over
EXPLANATION = "quantized by erq_mm: load it into a model of type 'QuantizedDetector', or with erq_mm.load_quantized"


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        tensors: by name, in main memory.
        texts: by name, JSON for the most part.
    """

    tensors: dict[str, Tensor]
    texts: dict[str, str]


def check_suffix(path: str | Path) -> Path:
    """Return the path if its suffix names a format, else raise ValueError."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f'a quantized model is saved as one of {SUFFIXES}, got {path}')
    return path


def write(path: str | Path, contents: Contents) -> int:
    """Write a file and return its size in bytes; until all of it is there an old one stays.

    Raises:
        ValueError: a suffix that names no format.
        OSError: naming the path.
    """
    path = check_suffix(path)
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in contents.tensors.items()}
    try:
        if path.suffix == '.safetensors':
            save_file(tensors, unfinished, dict(contents.texts) | {'sha256': NO_DIGEST})
        else:
            torch.save({'state_dict': EXPLANATION, 'texts': dict(contents.texts), 'tensors': tensors}, unfinished)
        _sign(unfinished, path.suffix)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path.stat().st_size


def is_ours(path: str | Path) -> bool:
    """Whether a file claims to be one of this package; it may still be damaged."""
    path = Path(path)
    try:
        with path.open('rb') as file:
            if path.suffix == '.safetensors':
                header = file.read(min(int.from_bytes(file.read(8), 'little'), LARGEST_HEADER))
                return f'"{MARK}"'.encode() in header
            file.seek(max(path.stat().st_size - COMMENT_SIZE, 0))
            return file.read(len(COMMENT)) == COMMENT
    except OSError:
        return False


def read(path: str | Path) -> Contents:
    """Return what a file holds.

    Raises:
        FileNotFoundError: naming it.
        ValueError: naming the file, and what is wrong with it: truncated, altered, or not one of ours.
    """
    path = check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no quantized model {path}')
    data = path.read_bytes()
    _check_signature(path, data)
    try:
        contents = _parse_safetensors(data) if path.suffix == '.safetensors' else _parse_pickle(path, len(data))
    except _Malformed as error:
        raise ValueError(f'{path} is no quantized model: {error}') from error
    if MARK not in contents.texts:
        raise ValueError(f'{path} is no quantized model of erq_mm: it has no entry {MARK!r}')
    return contents


class _Malformed(Exception):
    """The checksum holds, so somebody made the file like this."""


def _parse_safetensors(data: bytes) -> Contents:
    header = data[8 : 8 + int.from_bytes(data[:8], 'little')]
    try:
        tensors = load_safetensors(data)
        texts = json.loads(header.decode()).get('__metadata__', {})
    except (SafetensorError, KeyError, ValueError, RecursionError, AttributeError, TypeError, OverflowError) as error:
        raise _Malformed(f'{type(error).__name__}: {error}') from error
    return _checked(tensors, texts, len(data))


def _parse_pickle(path: Path, size: int) -> Contents:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _Malformed('it has compressed entries, and torch writes none')
        if sum(entry.file_size for entry in entries) > size:
            raise _Malformed('its entries claim to be larger than the file')
        loaded = torch.load(path, map_location='cpu', weights_only=True)
        return _checked(loaded['tensors'], loaded['texts'], size)
    except _Malformed:
        raise
    except Exception as error:  # whatever the unpickler makes of bytes that somebody has made up
        raise _Malformed(f'{type(error).__name__}: {error}') from error


def _checked(tensors: object, texts: object, size: int) -> Contents:
    """Return both if they are what they should be; a strided tensor can claim to be larger than its file."""
    if not isinstance(tensors, dict) or not isinstance(texts, dict):
        raise _Malformed('tensors and texts are no dictionaries')
    for name, tensor in tensors.items():
        if not isinstance(name, str) or type(tensor) is not Tensor or tensor.layout != torch.strided:
            raise _Malformed(f'entry {name!r} is no tensor but a {type(tensor).__name__}')
        if tensor.device.type != 'cpu' or not tensor.is_contiguous() or tensor.nbytes > size:
            raise _Malformed(f'tensor {name!r} of shape {tuple(tensor.shape)} claims more than the file holds')
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in texts.items()):
        raise _Malformed('an entry that is no tensor is no text either')
    return Contents(tensors, {key: value for key, value in texts.items() if key != 'sha256'})


def _sign(path: Path, suffix: str) -> None:
    """Put the checksum of a file into the file, and make sure that it is on the disk."""
    with path.open('r+b') as file:
        if suffix == '.safetensors':
            header = file.read(int.from_bytes(file.read(8), 'little'))
            digest = _digest(path.read_bytes())
            file.seek(8 + DIGEST_IN_HEADER.search(header).start(1))
            file.write(digest.encode())
        else:
            file.seek(-2, os.SEEK_END)  # the size of a comment behind the archive, which is empty so far
            file.write(COMMENT_SIZE.to_bytes(2, 'little'))
            file.flush()
            file.write(COMMENT + _digest(path.read_bytes()).encode())
        file.flush()
        os.fsync(file.fileno())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_signature(path: Path, data: bytes) -> None:
    if path.suffix == '.safetensors':
        size = int.from_bytes(data[:8], 'little')
        place = DIGEST_IN_HEADER.search(data, 8, 8 + size) if 8 + size <= len(data) else None
        signed = data[: place.start(1)] + NO_DIGEST.encode() + data[place.end(1) :] if place else data
        found = place[1] if place else None
    else:
        start = len(data) - len(NO_DIGEST)
        found = data[start:] if data[start - len(COMMENT) : start] == COMMENT else None
        signed = data[: start - len(COMMENT)]
    if found is None:
        raise ValueError(
            f'{path} ({len(data)} bytes) has no checksum of erq_mm: it is truncated, or not a quantized model '
            '(float checkpoints are quantized by tools/quantize.py)'
        )
    if _digest(signed).encode() != found:
        raise ValueError(f'{path} ({len(data)} bytes) is damaged: its contents do not have the checksum it names')
