"""Full float32 precision of a block, whichever of torch's switches was used to lower it, and those switches restored.

torch has two sets of them. The older one is a precision of matrix products and a flag of cuDNN; since torch 2.9 every
backend and operator has its own `fp32_precision`, which it inherits where it is 'none'. They are stored apart, writing
the older ones changes some of the newer ones, and reading an older one while the two disagree is an error. Hence both
are set here, to values that agree, and both are put back.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

# inherited from first; torch.backends itself is ('generic', 'all'), torch.backends.cudnn is ('cuda', 'all')
BACKENDS = (('generic', 'all'), ('cuda', 'all'), ('mkldnn', 'all'))
OPERATORS = tuple((backend, operator) for backend in ('cuda', 'mkldnn') for operator in ('matmul', 'conv', 'rnn'))


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch autocast, TF32 and bfloat16 products off while the block runs; every switch is as before afterwards."""
    with ExitStack() as stack:
        for device in ('cpu', 'cuda'):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_own_precision() if _has_own_precision() else _legacy_precision())
        yield


def _has_own_precision() -> bool:
    return hasattr(torch._C, '_set_fp32_precision_setter')


@contextmanager
def _legacy_precision() -> Iterator[None]:
    products, convolutions = torch.get_float32_matmul_precision(), _cudnn_flag()
    try:
        torch.set_float32_matmul_precision('highest')
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def _own_precision() -> Iterator[None]:
    before: dict[tuple[str, str], str] = {}
    try:
        for switch in BACKENDS:  # what the operators inherit has to go first: reading one tells what it inherits, too
            before[switch] = _exchange(switch, 'none')
        for switch in OPERATORS:
            before[switch] = _exchange(switch, 'ieee')
        with _legacy_precision():  # which leaves convolutions with what they inherit
            for switch in OPERATORS:
                _exchange(switch, 'ieee')
            yield
    finally:
        for switch, precision in before.items():
            _exchange(switch, precision)


def _exchange(switch: tuple[str, str], precision: str) -> str:
    """Set a switch and return what it was; torch.backends.mkldnn.fp32_precision writes another one (torch 2.13)."""
    before = torch._C._get_fp32_precision_getter(*switch)
    torch._C._set_fp32_precision_setter(*switch, precision)
    return before


def _cudnn_flag() -> bool:
    """Return cuDNN's older flag; under full precision, where it can be read only if it says so, too."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return True
