"""What the benchmark needs to know about a task: its metrics, and what they are made of image by image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray]


@dataclass(frozen=True)
class Metric:
    """A figure of merit, in percent.

    Attributes:
        key: what grid files call it. name: what tables call it. short: what it measures, for axes and captions.
        stored: its name in results. column: its name in CSV files.
        reported: key of the evaluator's own figure; `scale` times it is percent.
    """

    key: str
    name: str
    short: str
    stored: str
    column: str
    reported: str
    scale: float = 100.0


class Recorder(ABC):
    """What is kept of one evaluation.

    Attributes:
        options: `key=value` as for --cfg-options that make the evaluation leave what is needed.
        hooks: of the runner, for the same purpose.
    """

    options: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()

    @abstractmethod
    def arrays(self) -> dict[str, NDArray]:
        """Return what happened per test image, after the evaluation has run."""


class Protocol(ABC):
    """How models of one task are evaluated.

    Attributes:
        metrics: in the order of columns.
        needs: the evaluator a config must have, for messages.
    """

    metrics: tuple[Metric, ...]
    needs: str

    @abstractmethod
    def fits(self, config: Config) -> bool:
        """Whether the test evaluator of a config is of this task."""

    @abstractmethod
    def recorder(self, config: Config, work_dir: Path) -> Recorder:
        """Return what keeps an evaluation of the config; `work_dir` is scratch."""

    @abstractmethod
    def percent(self, arrays: Arrays, weights: Callable[[int], NDArray]) -> dict[str, NDArray]:
        """Return stored name -> percent of every resample of the test images, (replicates,).

        Args:
            arrays: of a `Recorder`.
            weights: number of images -> how often each is drawn, (replicates, images).
        """

    def measured(self, arrays: Arrays) -> dict[str, float]:
        """Return stored name -> percent on the test images as they are."""
        found = self.percent(arrays, lambda images: np.ones((1, images), int))
        return {stored: float(values[0]) for stored, values in found.items()}


def evaluators(config: Config) -> list[Mapping]:
    """Return the test evaluators of a config, one or several."""
    found = config.get('test_evaluator') or []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def type_name(entry: Mapping) -> str:
    """Return a class's name without scope or module, however a config writes its type."""
    kind = entry['type']
    return getattr(kind, '__name__', kind).rpartition('.')[2]
