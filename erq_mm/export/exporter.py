"""Write the parts of a detector into a folder, with a manifest of what every layer became."""

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .backends import BACKENDS, LayerProof, prove
from .onnx import Account, Part, write_parts
from .onnx.dependency import import_onnx

MANIFEST = 'manifest.json'
FORMAT = 1


@dataclass(frozen=True)
class ExportedPart:
    """One file of an export.

    Attributes:
        name: of the part.
        path: of its graph.
        account: what became of its layers.
        proofs: backend -> what its optimized graph runs every layer with.
    """

    name: str
    path: Path
    account: Account
    proofs: dict[str, list[LayerProof]]

    @property
    def file_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Size of the layers' weights in the graph, and in float32."""
        layers = self.account.layers
        return sum(layer.weight_bytes for layer in layers), sum(4 * layer.weights for layer in layers)


@dataclass(frozen=True)
class Export:
    """What was written, what stays in torch and why, and which back ends could not be asked for proof."""

    parts: list[ExportedPart]
    left: dict[str, str]
    not_proven: dict[str, str]

    @property
    def notes(self) -> list[str]:
        return [note for part in self.parts for note in part.account.notes]


def export_parts(
    detector: nn.Module,
    folder: str | Path,
    backends: Collection[str] = tuple(BACKENDS),
    on_part: Callable[[str], Any] = lambda name: None,
) -> Export:
    """Write one ONNX file per part of a detector, and `manifest.json`.

    Args:
        detector: as of `write_parts`.
        folder: is made if it is not there; files of the same names are replaced.
        backends: engines to load every part into, for the proof of its kernels; those not installed are left out.
        on_part: called with the name of every part that is done.

    Raises:
        ValueError, ImportError: as `write_parts`, and for an unknown back end.
    """
    unknown = sorted(set(backends) - set(BACKENDS))
    if unknown:
        raise ValueError(f'unknown back ends {unknown}; there are {sorted(BACKENDS)}')
    written, left = write_parts(detector)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    not_proven: dict[str, str] = {}
    parts = []
    for part in written:
        path = folder / f'{part.name}.onnx'
        _write_whole(path, part.model.SerializeToString())
        proofs = {name: found for name in backends if (found := _proof(name, part, not_proven)) is not None}
        parts.append(ExportedPart(part.name, path, part.account, proofs))
        on_part(part.name)
    export = Export(parts, left, not_proven)
    _write_whole(folder / MANIFEST, (json.dumps(_manifest(export), indent=1) + '\n').encode())
    return export


def _proof(backend: str, part: Part, not_proven: dict[str, str]) -> list[LayerProof] | None:
    try:
        return prove(BACKENDS[backend]().load(part.model, threads=1), part.account)
    except ImportError as error:
        not_proven[backend] = str(error)
        return None


def _manifest(export: Export) -> dict[str, Any]:
    onnx = import_onnx()
    parts = {}
    for part in export.parts:
        graph = onnx.load(part.path, load_external_data=False).graph
        parts[part.name] = {
            'file': part.path.name,
            'inputs': [value.name for value in graph.input],
            'outputs': [value.name for value in graph.output],
            'account': part.account.to_dict(),
            'kernels': {b: {p.name: list(p.kernels) for p in proofs} for b, proofs in part.proofs.items()},
        }
    return {'format': FORMAT, 'parts': parts, 'in_torch': export.left, 'not_proven': export.not_proven}


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary neighbour and a rename."""
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
