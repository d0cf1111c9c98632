"""Queries, keys and values in coordinates of their own, so that one range serves all channels.

q . k does not change when all queries of a head are multiplied by an invertible A and its keys by the inverse
transpose. Rounding every channel with one step costs step_q^2 tr K + step_k^2 tr Q in a logit, Q and K the second
moments of queries and keys, and a step grows with the widest channel: step_q^2 ~ max diag Q >= tr Q / channels. The
product tr Q tr K is least where both are the same diagonal, L^(1/2) with L the eigenvalues of Q^(1/2) K Q^(1/2); an
orthogonal matrix whose entries have one size then makes all channels equally wide. Ranges do not follow second moments
alone, and scaling channels against each other can be better: both are rounded and compared.

Nor does the layer behind the mixed values change when channel c of all values is divided by u_c and its column
multiplied. No softmax sees what all keys have in common, and what all values have comes out of it as it is, for the
next bias, as long as rows of the quantized softmax sum to one (`log_normalised`): so both may lie around zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .clipping import search_ends, search_tensor_range
from .quantizers.uniform import decode, encode

FLOOR = 1e-6  # of the mean second moment of all heads: directions in which there is nothing are left alone
NARROWEST = 1e-6  # of the widest channel: channels that are constant are left alone
SEARCHED_ROWS, SEARCHED_VALUES = 1024, 2**15


@dataclass(frozen=True)
class Balance:
    """The change of coordinates of one attention, float64.

    Attributes:
        maps: (2, heads, d, d), by which queries and keys of a head are multiplied, from the right.
        width: (heads d,), by which values are divided.
        offset: (3 heads d), taken off afterwards, zero for queries.
    """

    maps: Tensor
    width: Tensor
    offset: Tensor

    def apply(self, outputs: Tensor) -> Tensor:
        """Return queries, keys and values, (..., 3 heads d), in the new coordinates, in their own precision."""
        return self.turn(outputs) - self.offset.to(outputs.dtype)

    def turn(self, outputs: Tensor) -> Tensor:
        """Multiply only: for the weight, (in, 3 heads d), whose bias takes the offset."""
        channels = len(self.width)
        pair = outputs[..., : 2 * channels].unflatten(-1, self.maps.shape[:3])
        turned = torch.einsum('...phc,phcd->...phd', pair, self.maps.to(outputs.dtype)).flatten(-3)
        return torch.cat([turned, outputs[..., 2 * channels :] / self.width.to(outputs.dtype)], -1)

    def undo(self, weight: Tensor) -> Tensor:
        """Return the weight, (out, heads d), of the layer that takes the mixed values in the new coordinates."""
        return weight * self.width.to(weight.dtype)

    def owed(self, weight: Tensor) -> Tensor:
        """Return what the bias of that layer, of the new weight, has to add: the offset of the values, (out,)."""
        return weight @ self.offset.chunk(3)[2].to(weight.dtype)


def balanced(outputs: Tensor, weights: Tensor, heads: int, bits: int, has_biases: bool = True) -> Balance:
    """Return coordinates in which rounding costs least; the mean width of the values stays.

    Args:
        outputs: (rows, 3 heads d), queries, keys and values of some tokens, at least one; of many some are looked at.
        weights: (rows,), of the tokens.
        heads: how many there are.
        bits: to which they are going to be rounded; widths are those of the ranges of least error.
        has_biases: whether this layer and the one that takes the mixed values have biases for an offset.
    """
    every = -(-len(outputs) // SEARCHED_ROWS)
    outputs, weights = outputs[::every], weights[::every]
    query, key, value = outputs.chunk(3, 1)
    share = (weights / weights.sum()).to(outputs.dtype)
    middle = share @ key if has_biases else key.new_zeros(key.shape[1])
    forward, inverse = joint_map(_moments(query, share, heads), _moments(key - middle, share, heads))
    same = torch.eye(forward.shape[-1]).to(forward).expand_as(forward)
    found = []
    for maps in (torch.stack([forward, inverse.mT]), torch.stack([same, same])):
        turned = Balance(maps, value.new_ones(value.shape[1]), outputs.new_zeros(1))
        balance = _evened(turned, *search_ends(turned.turn(outputs), weights, bits), has_biases)
        found.append((logit_error(balance.apply(outputs), weights, heads, bits), balance))
    return min(found, key=lambda item: item[0])[1]


def logit_error(outputs: Tensor, weights: Tensor, heads: int, bits: int) -> float:
    """Return the mean squared error in the logits of any two tokens that rounding of queries and keys leaves.

    What all keys have in common does not count, and errors of both at once do not.

    Args:
        outputs, weights, heads, bits: as of `balanced`; queries have one range, and keys.
    """
    share = (weights / weights.sum()).to(outputs.dtype)
    query, key, _ = outputs.chunk(3, 1)
    noises = (_moments(_rounded(part, bits) - part, share, heads) for part in (query, key))
    moments = _moments(key - share @ key, share, heads), _moments(query, share, heads)
    return float(sum((noise * moment).sum() for noise, moment in zip(noises, moments, strict=True)))


def joint_map(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and its inverse, (heads, d, d), with A^T first A = A^-1 second A^-T, of an even diagonal."""
    values, vectors = torch.linalg.eigh(_floored(first))
    root = (vectors * values.sqrt()[:, None]) @ vectors.mT
    inverse_root = (vectors / values.sqrt()[:, None]) @ vectors.mT
    values, vectors = torch.linalg.eigh(root @ _floored(second) @ root)
    quarter, even = values.clamp(min=1e-300)[:, None] ** 0.25, even_rotation(first.shape[-1]).to(first)
    return inverse_root @ (vectors * quarter) @ even, even.T @ ((vectors / quarter).mT @ root)


def even_rotation(size: int) -> Tensor:
    """Return an orthogonal matrix, float64 (size, size), whose entries are as alike in size as can be.

    Hadamard's for powers of two; else the Kronecker product of one with a random rotation of the odd factor.
    """
    odd = size
    while odd % 2 == 0:
        odd //= 2
    generator = torch.Generator().manual_seed(odd)
    matrix = torch.linalg.qr(torch.randn(odd, odd, generator=generator, dtype=torch.float64)).Q.contiguous()
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    while len(matrix) < size:
        matrix = torch.kron(step, matrix)
    return matrix


def _moments(rows: Tensor, share: Tensor, heads: int) -> Tensor:
    """Return the second moments of every head, float64 (heads, d, d): single precision makes small ones negative."""
    rows = (rows * share.sqrt()[:, None]).double().unflatten(1, (heads, -1)).transpose(0, 1)
    return rows.mT @ rows


def _rounded(x: Tensor, bits: int) -> Tensor:
    """Return `x` on one uniform grid of least squared error that contains zero."""
    scale, zero_point = (number.to(x.dtype) for number in search_tensor_range(x, bits, most=SEARCHED_VALUES))
    return decode(encode(x, scale, zero_point, 2**bits - 1), scale, zero_point)


def _floored(moments: Tensor) -> Tensor:
    """Return second moments, (heads, d, d), with enough in every direction to be inverted."""
    mean = float(moments.diagonal(dim1=-2, dim2=-1).mean())
    return moments + (FLOOR * mean if mean > 0 else 1.0) * torch.eye(moments.shape[-1]).to(moments)


def _evened(turned: Balance, low: Tensor, high: Tensor, has_biases: bool) -> Balance:
    """Return the same with queries as wide as keys, and all values, given the ends of all channels, (3 heads d,)."""
    offset = (low + high) / 2 if has_biases else torch.zeros_like(low)
    offset[: len(offset) // 3] = 0
    width = torch.maximum((low - offset).abs(), (high - offset).abs())
    width = width.clamp(min=NARROWEST * float(width.max())) if bool(width.any()) else torch.ones_like(width)
    query, key, value = width.chunk(3)
    ratio, value = (query / key).sqrt(), value / value.mean()
    maps = turned.maps / torch.stack([ratio, 1 / ratio]).view(*turned.maps.shape[:2], 1, -1)
    return Balance(maps, value, offset / torch.cat([ratio, 1 / ratio, value]))
