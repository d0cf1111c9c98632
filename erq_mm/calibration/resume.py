"""Finished units of a long calibration on disk, so that a killed one goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class UnitStore:
    """One file per finished unit (block or layer), written whole.

    Args:
        folder: made if it is not there.
        fingerprint: of everything that decides the result (`fingerprint`); files of another one are not read.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = Path(folder) / f'reconstruction-{fingerprint[:16]}'
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> dict[str, Any] | None:
        """Return what was saved under `name`, in main memory wherever it was computed, or None."""
        path = self._path(name)
        return torch.load(path, map_location='cpu', weights_only=True) if path.exists() else None

    def save(self, name: str, content: Mapping[str, Any]) -> None:
        """Write tensors and numbers under `name`, whole or not at all."""
        path = self._path(name)
        unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
        try:
            torch.save(dict(content), unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f'{name}.pt'


def fingerprint(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """Return a hash of the model's parameters and buffers and of JSON settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
