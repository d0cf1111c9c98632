"""Aqer: correct the weights for the error of quantized activations, in closed form (ERQ, Eq. 5 to 8)."""

import torch
from torch import Tensor

from .inner_product import inner_product
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


def corrected_mse(stats: InputStats, change: Tensor, lam: float) -> float:
    """Return the mean squared output error after `change`, which must be the ridge solution for `lam`.

    There change (G + lam I) = cross^T, so the quadratic term of the error needs no product with the Gram matrix:
    energy - <change, cross^T> - lam ||change||^2.
    """
    gained = inner_product(change, stats.output_cross().T)
    penalty = lam * inner_product(change, change)
    return max(stats.energy - float(gained + penalty), 0.0) / max(stats.count * len(change), 1)
