"""Peak memory of a block: of the GPU where there is one in use, of the process otherwise."""

import resource
import sys

import torch


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
            unit = 1 if sys.platform == 'darwin' else 1024
            self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
