"""Seconds of the parts of a calibration: a GPU is waited for at their ends, so that none pays for the one before."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .devices import cuda_devices


class Stopwatch:
    """Adds up seconds by name.

    Args:
        model: whose GPUs are waited for.
        seconds: name -> seconds, added to.
    """

    def __init__(self, model: nn.Module, seconds: dict[str, float]) -> None:
        self.seconds, self._devices = seconds, cuda_devices(model)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of a block to `seconds[name]`; a block that fails is not counted."""
        started = time.perf_counter()
        yield
        for device in self._devices:
            torch.cuda.synchronize(device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
