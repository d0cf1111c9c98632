"""The Gaussian proxy of Wqer's rounding against the true output error (ERQ, Eq. 12 and Figure 3).

For a rounding error d of one output row the proxy is d (mu mu^T + Sigma) d^T, with mean and covariance of the quantized
inputs. On the rows that gave mu and Sigma it equals the mean of (x d)^2 exactly, whatever their distribution; what it
can miss is how far other images differ from the calibration images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.scale_search import affine_parameters


@dataclass(frozen=True)
class ProxyTrials:
    """One entry per rounding that was tried: the proxy, and the true mean squared errors."""

    proxy: Tensor
    calibration_error: Tensor
    other_error: Tensor


def compare_proxy(
    weight: Tensor, calibration_rows: Tensor, other_rows: Tensor, bits: int, trials: int, seed: int = 0
) -> ProxyTrials:
    """Round random output rows, nearest and with random flips, and compare.

    Args:
        weight: float, (out, in).
        calibration_rows, other_rows: quantized inputs of the layer, (rows, in), on calibration and on other images.
        bits: of the rounded weight; minimum and maximum of each output row are its range.
        trials: number of roundings.
    """
    errors = random_rounding_errors(weight, bits, trials, seed).double()
    mean, covariance = gaussian(calibration_rows.double())
    proxy = (errors @ mean).square() + ((errors @ covariance) * errors).sum(1)
    true = [(rows.double() @ errors.T).square().mean(0) for rows in (calibration_rows, other_rows)]
    return ProxyTrials(proxy, *true)


def gaussian(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (in,) and covariance (in, in) of rows, normalised by their number."""
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.T @ centred / len(rows)


def random_rounding_errors(weight: Tensor, bits: int, trials: int, seed: int) -> Tensor:
    """Return d = w_q - w of random rows of `weight`, (trials, in): rounded to nearest, then a random share flipped.

    A flip takes the neighbour on the other side; the share of flipped entries is uniform in 0..1/2 per trial. The draws
    are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = weight[torch.randint(len(weight), (trials,), generator=generator).to(weight.device)]
    scale, _ = affine_parameters(chosen.amin(1), chosen.amax(1), 2**bits - 1)
    nearest = torch.round(chosen / scale[:, None]) - chosen / scale[:, None]
    share = torch.rand(trials, 1, generator=generator) / 2
    flipped = (torch.rand(nearest.shape, generator=generator) < share).to(weight.device)
    return torch.where(flipped, nearest - torch.where(nearest > 0, 1.0, -1.0), nearest) * scale[:, None]
