"""What integer kernels of this CPU can hold, and what floats it is slow with.

Without VNNI instructions, x86 kernels of uint8 times int8 add two products in 16 bits and saturate there, in silence:
oneDNN (OpenVINO, torch) and ONNX Runtime alike. Layers whose products can get that far must not run so.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

SIXTEEN_BITS = 2**15 - 1
EXACT_FLAGS = {'avx512_vnni', 'avx_vnni', 'amx_int8'}
WAY_OUT = 'a_bits=7, or w_bits of 6 or less, never get that far'


@cache
def saturates() -> bool:
    """Whether uint8 times int8 kernels of this CPU may saturate."""
    if platform.machine().lower() not in ('x86_64', 'amd64', 'i386', 'i686'):
        return False
    path = Path('/proc/cpuinfo')
    if not path.exists():  # not to be found out: assume the worse
        return True
    lines = [line for line in path.read_text().splitlines() if line.startswith('flags')]
    return not lines or not EXACT_FLAGS & set(lines[0].split())


def may_saturate(largest_code: int, a_bits: int) -> bool:
    """Whether two products of activations of `a_bits` and weights up to `largest_code` can exceed 16 bits."""
    return 2 * (2**a_bits - 1) * largest_code > SIXTEEN_BITS


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Let this thread take floats below 1.2e-38 for zero, as a CPU is ten times as slow with them as with others.

    A softmax makes them of all logits that are 88 or more below the largest, which those of masked tokens are.
    """
    before = _takes_subnormals_for_zero()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _takes_subnormals_for_zero() -> bool:
    smallest = torch.tensor([1], dtype=torch.int32).view(torch.float32)
    return bool(smallest * 1 == 0)
