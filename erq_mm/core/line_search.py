"""Search of one number among candidates, and the candidates of PTQ4ViT (ECCV 2022)."""

from collections.abc import Callable, Sequence


def scale_factors(candidates: int, alpha: float, beta: float) -> list[float]:
    """Return alpha + i / n (beta - alpha) for i = 0..n: what a first scale is multiplied by."""
    return [alpha + i / candidates * (beta - alpha) for i in range(candidates + 1)]


def line_search(candidates: Sequence[float], error: Callable[[float], float]) -> tuple[float, float]:
    """Return the candidate of least error, the first one on a tie, and its error."""
    best, least = candidates[0], error(candidates[0])
    for candidate in candidates[1:]:
        found = error(candidate)
        if found < least:
            best, least = candidate, found
    return best, least
