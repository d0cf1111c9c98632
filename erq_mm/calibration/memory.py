"""Peak memory of a block: of the GPU where there is one in use, of the process otherwise."""

import re
import resource
import sys
from pathlib import Path

import torch


def process_peak_bytes() -> int:
    """Return the largest resident size this process has had.

    Linux's own figure is preferred: what `getrusage` says starts at the size of the process that started this one.
    """
    status = Path('/proc/self/status')
    if status.exists() and (found := re.search(r'VmHWM:\s+(\d+) kB', status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


class PeakMemory:
    """`with PeakMemory() as memory: ...; memory.peak_bytes`.

    Without CUDA it is the process's high-water mark, which the block may not have raised: an upper bound.
    """

    peak_bytes: int = 0

    def __enter__(self) -> 'PeakMemory':
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_initialized():
            self.peak_bytes = torch.cuda.max_memory_allocated()
        else:
            self.peak_bytes = process_peak_bytes()
