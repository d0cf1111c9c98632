"""What happened during a quantization, per layer, as values and as JSON."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class LayerReport:
    """One quantized product.

    Attributes:
        name, kind, role: as in `structure.Site`; both roles of a matmul are joined by a comma.
        w_bits: None for a matmul. a_bits: None if the input stayed float, then `note` says why.
        granularity: of the weight and of the input.
        output_mse: step -> mean squared output error on the calibration rows; `activation` is with float weights.
        sqnr_db: of the output after the last step.
        rows: calibration rows behind the corrections.
        damping: of the correction that a sequential recipe chose, in mean diagonals of the Gram matrix; None: none.
    """

    name: str
    kind: str
    role: str
    w_bits: int | None
    a_bits: int | None
    granularity: dict[str, str]
    output_mse: dict[str, float] = field(default_factory=dict)
    sqnr_db: float | None = None
    rows: int = 0
    damping: float | None = None
    parameters: int = 0
    note: str | None = None


@dataclass
class Report:
    """Everything `quantization.json` holds: what was asked for, what it cost, and what happened to every layer.

    Attributes:
        reconstruction: per unit: name, objective before and after, whether the training was kept, seconds.
        fidelity: what the benchmark found the outputs to be worth against the float model's (`engine/fidelity.py`).
        checks: what was proven about the model: `same_function` (stage -> largest difference), `full_account`.
        notes: lines for the reader.
    """

    recipe: str
    w_bits: int
    a_bits: int
    scope: str
    seed: int
    steps: list[dict[str, Any]]
    calibration: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    layers: list[LayerReport] = field(default_factory=list)
    float_layers: list[dict[str, str]] = field(default_factory=list)
    reconstruction: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Size of the quantized weights as packed codes (scales not counted: about 1 % more)."""
        return sum(layer.parameters * layer.w_bits // 8 for layer in self.layers if layer.w_bits)

    @property
    def float_size_bytes(self) -> int:
        """Size of the same weights in float32."""
        return sum(layer.parameters * 4 for layer in self.layers if layer.w_bits)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {'size_bytes': self.size_bytes, 'float_size_bytes': self.float_size_bytes}

    def write(self, path: Path) -> None:
        """Write JSON, whole or not at all."""
        path = Path(path)
        unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
        try:
            unfinished.write_text(json.dumps(self.to_dict(), indent=1) + '\n')
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def check_writable(path: Path, what: str = 'report', option: str = 'report=') -> None:
    """Raise OSError naming `path` unless a file can be written there; creates its folder.

    Args:
        what: is to be written.
        option: with which another path is chosen.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f'{path} is a folder')
        probe = path.with_name(f'.{path.name}.{os.getpid()}')
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f'the {what} cannot be written to {path} ({error}); choose another path with `{option}`'
        ) from error
