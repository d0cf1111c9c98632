"""Search of one number among candidates, and the candidates of PTQ4ViT (ECCV 2022)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Error = Tensor | float  # a scalar, on any device


def scale_factors(candidates: int, alpha: float, beta: float) -> list[float]:
    """Return alpha + i / n (beta - alpha) for i = 0..n: what a first scale is multiplied by."""
    return [alpha + i / candidates * (beta - alpha) for i in range(candidates + 1)]


def evaluate_all(candidates: Sequence[object], error: Callable[..., Error]) -> list[float]:
    """Return the errors of candidates as numbers: a GPU is waited for once, not once per candidate."""
    errors = [error(candidate) for candidate in candidates]
    if errors and isinstance(errors[0], Tensor):
        return torch.stack(errors).tolist()
    return errors


def line_search(candidates: Sequence[float], error: Callable[[float], Error]) -> tuple[float, float]:
    """Return the candidate of least error, the first one on a tie, and its error."""
    errors = evaluate_all(candidates, error)
    best, least = candidates[0], errors[0]
    for candidate, found in zip(candidates, errors, strict=True):
        if found < least:
            best, least = candidate, found
    return best, least
