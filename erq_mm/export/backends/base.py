"""One interface for the engines that run exported parts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..onnx.account import INTEGER, Account

PRECISIONS = ('f32', 'bf16')


class Session(ABC):
    """A graph loaded into an engine.

    Attributes:
        precision: of everything that is not integer, as the engine itself reports it: `f32` or `bf16`.
        notes: what the engine had to do otherwise than the graph says, and why.
    """

    precision: str
    notes: list[str]

    @abstractmethod
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for the graph's inputs, both in the graph's order; outputs are the caller's own."""

    @abstractmethod
    def kernels(self) -> dict[str, str]:
        """Return node name of the graph -> the kernel that the optimized graph runs it with."""

    @staticmethod
    @abstractmethod
    def is_integer(kernel: str) -> bool:
        """Whether a kernel multiplies integers."""


class Backend(ABC):
    """An engine.

    Attributes:
        name: `openvino` or `onnxruntime`.
        extra: of this package, that installs the engine.
    """

    name: str
    extra: str

    @abstractmethod
    def load(
        self, model: Any, threads: int | None = None, precision: str = 'f32', sizes: dict[str, int] | None = None
    ) -> Session:
        """Return a session of an `onnx.ModelProto`.

        Args:
            threads: None is the engine's own choice.
            precision: of everything that is not integer.
            sizes: fixes dynamic sizes by name; engines know constants then. None keeps them dynamic.

        Raises:
            ValueError: a precision that the engine does not have.
            ImportError: the engine is not installed; names the extra.
        """

    @abstractmethod
    def profile(
        self, model: Any, inputs: Sequence[Tensor], runs: int, threads: int | None = None, precision: str = 'f32'
    ) -> dict[str, float]:
        """Return operator type of the optimized graph -> milliseconds per run, for inputs in the graph's order."""


@dataclass(frozen=True)
class LayerProof:
    """What the optimized graph runs a layer with.

    Attributes:
        name: of the layer.
        kernels: one per node of the layer.
        is_integer: whether all of them multiply integers.
        was_planned: whether the graph asked for that.
    """

    name: str
    kernels: tuple[str, ...]
    is_integer: bool
    was_planned: bool


def prove(session: Session, account: Account) -> list[LayerProof]:
    """Look up every layer of a part in the engine's optimized graph."""
    found = session.kernels()
    proofs = []
    for layer in account.layers:
        shared = found.get(layer.name, 'not found')  # of a head that runs on several levels, by its one weight
        kernels = tuple(found.get(node, shared if '#' in node else 'not found') for node in layer.nodes)
        is_integer = bool(kernels) and all(session.is_integer(kernel) for kernel in kernels)
        proofs.append(LayerProof(layer.name, kernels, is_integer, layer.runs_as == INTEGER))
    return proofs


def check_precision(precision: str, known: Sequence[str], backend: str) -> None:
    """Raise ValueError unless `precision` is one of `known`."""
    if precision not in known:
        raise ValueError(f'{backend} runs what is not integer in {" or ".join(known)}, got precision={precision!r}')
