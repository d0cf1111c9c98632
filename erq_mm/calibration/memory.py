"""Peak memory of a block: of the GPUs that the model is on, of the process if it is on none."""

import re
import resource
import sys
from pathlib import Path

import torch
from torch import nn

from .devices import cuda_devices


def process_peak_bytes() -> int:
    """Return the largest resident size this process has had.

    Linux's own figure is preferred: what `getrusage` says starts at the size of the process that started this one.
    """
    status = Path('/proc/self/status')
    if status.exists() and (found := re.search(r'VmHWM:\s+(\d+) kB', status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


class PeakMemory:
    """`with PeakMemory(model) as memory: ...; memory.peak_bytes`.

    On GPUs it is what torch allocated, of several their sum. On the CPU it is the process's high-water mark, which the
    block may not have raised: an upper bound.

    Args:
        model: whose devices are measured.
    """

    peak_bytes: int = 0

    def __init__(self, model: nn.Module) -> None:
        self.devices = cuda_devices(model)

    def __enter__(self) -> 'PeakMemory':
        for device in self.devices:
            torch.cuda.reset_peak_memory_stats(device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.devices:
            self.peak_bytes = sum(torch.cuda.max_memory_allocated(device) for device in self.devices)
        else:
            self.peak_bytes = process_peak_bytes()
