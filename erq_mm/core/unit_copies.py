"""Which hidden units of a layer are worth two places, and which are given up for them.

Rounding a unit costs the layers behind it its noise times their squared weights, and a few units cost most of it. Two
copies of a unit, rounded on grids whose levels lie between one another, have about a quarter of that (Zhao et al., ICML
2019, split channels so, and add places). The places are those of units that the others can make up for: leaving unit d
out costs |w_d|^2 / [S^-1]_dd once the weights of all others are changed for it (the surgeon of Hassibi and Stork, NIPS
1992), S the covariance of the rounded units.
"""

import torch
from torch import Tensor

SAVED = 0.75  # of the noise of a unit that has two places


def choose_copies(
    covariance: Tensor, noise: Tensor, weight: Tensor, importance: Tensor
) -> tuple[list[tuple[int, int]], Tensor]:
    """Return which units get a second place and whose, and the weight without the units that are given up.

    Units are taken by their noise, the loudest first, as long as what is saved exceeds what the place costs.

    Args:
        covariance: of the units, positive definite together with the noise, (units, units).
        noise: mean squared error of rounding each of them, (units,).
        weight: of all layers behind, (out, units).
        importance: of squared errors of the outputs, (out,).

    Returns:
        Pairs (unit, place), and the weight in float64: its columns at the places are zero, and the others make up for
        that as well as they can. Constants are the business of the biases.
    """
    weight, importance = weight.double().clone(), importance.double()
    inverse = torch.linalg.inv(covariance.double() + torch.diag(noise.double()))
    louder = noise.double() * (importance @ weight.square())
    is_free = torch.ones_like(louder, dtype=torch.bool)
    pairs: list[tuple[int, int]] = []
    for unit in louder.argsort(descending=True, stable=True).tolist():
        if not is_free[unit]:
            continue
        is_free[unit] = False
        costs = (importance @ weight.square()) / inverse.diagonal()
        place = int(costs.where(is_free, torch.inf).argmin())
        if not is_free[place] or not float(SAVED * louder[unit]) > float(costs[place]):
            break
        is_free[place] = False
        pairs.append((unit, place))
        _leave_out_(weight, inverse, place)
    return pairs, weight


def _leave_out_(weight: Tensor, inverse: Tensor, place: int) -> None:
    """Take one unit out of the weight and out of the inverse covariance of those that are left, in place."""
    column = inverse[:, place] / inverse[place, place]
    weight -= torch.outer(weight[:, place].clone(), column)
    weight[:, place] = 0
    inverse -= torch.outer(column, inverse[place].clone())
    inverse[place], inverse[:, place] = 0, 0
    inverse[place, place] = 1  # its costs are looked at no more
