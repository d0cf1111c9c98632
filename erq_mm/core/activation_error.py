"""Aqer: correct the weights for the error of quantized activations, in closed form (ERQ, Eq. 5 to 8)."""

import torch
from torch import Tensor

from .ridge import RidgeSystem
from .statistics import InputStats


def correct_activation_error(stats: InputStats, system: RidgeSystem) -> Tensor:
    """Return the change [dW, db], (out, in + 1), minimizing ||W x - (W + dW) x_q - db||^2 + lam ||[dW, db]||^2.

    It is zero when the quantization error is, and never raises the output error on the rows of `stats`: no change at
    all is among the candidates of the minimum.
    """
    change = system.solve(stats.output_cross()).T
    if not bool(torch.isfinite(change).all()):
        raise FloatingPointError('the ridge solution for the activation error is not finite')
    return change.contiguous()
