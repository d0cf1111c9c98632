"""Channels of queries, keys and values scaled against each other, so that one range serves all of them.

q . k does not change when channel c of all queries is divided by t_c and that of all keys multiplied by it; nor does
the layer behind the mixed values when channel c of all values is divided by u_c and its column multiplied. Rounding
with steps that the widest channel dictates costs sum_c step_q^2 E k_c^2 + step_k^2 E q_c^2 in every logit, which is
least where both are equally wide: t_c^2 = width q_c / width k_c.
"""

import torch
from torch import Tensor

from .clipping import search_ends

NARROWEST = 1e-6  # of the widest channel: channels that are constant are left alone


def balancing_scale(outputs: Tensor, weights: Tensor, bits: int) -> Tensor:
    """Return what to divide the channels of queries, keys and values by, (3 channels,); values have the mean width 1.

    Args:
        outputs: (rows, 3 channels), queries, keys and values of some tokens, at least one.
        weights: (rows,), of the tokens.
        bits: to which they are going to be rounded; widths are those of the ranges of least error.
    """
    low, high = search_ends(outputs, weights, bits)
    width = torch.maximum(low.abs(), high.abs())
    width = width.clamp(min=NARROWEST * float(width.max())) if bool(width.any()) else torch.ones_like(width)
    query, key, value = width.chunk(3)
    ratio = (query / key).sqrt()
    return torch.cat([ratio, 1 / ratio, value / value.mean()]).to(outputs.dtype)
