"""How much of a layer's correction its rows carry: its damping, chosen on images that were held back."""

from collections.abc import Mapping

from torch import Tensor

from ...core.row_problem import RowProblem
from ...wording import first_of

HELD_SHARE = 0.25  # of the images
HELD_OUTPUTS = 64  # of a layer, whose errors choose its damping
SHARES = (0.01, 0.1, 1.0, 10.0, 100.0)  # dampings that are tried beside that of the rows per column
NAMED = 5  # layers in a note


def divided(x: Tensor, residual: Tensor, weights: Tensor, images: Tensor) -> tuple[RowProblem, RowProblem] | None:
    """Return the problems of the first three quarters of the images and of the held-back ones, on some outputs.

    Args:
        x, residual, weights: (rows, in), (rows, out) and (rows,), as of `RowProblem`.
        images: (rows,), the image of every row. Fewer than four are not divided: None.
    """
    held = held_back(images)
    if held is None:
        return None
    residual = residual[:, :: -(-residual.shape[1] // HELD_OUTPUTS)]
    fitted, test = (RowProblem(x[part], residual[part], weights[part]) for part in (~held, held))
    return fitted, test


def choose_damping(fitted: RowProblem, test: RowProblem, first: float) -> float | None:
    """Return the damping whose correction, fitted on one problem, has the least error on the other.

    The more of it, the less a correction does: errors fall, and then rise towards that of no correction. The search
    ends where they rise.

    Args:
        first: the least damping, in mean diagonals of the Gram matrix.

    Returns:
        In mean diagonals; None where the other problem is worse off with every correction than with none.
    """
    best, least = None, test.error()
    for share in sorted({first, *(share for share in SHARES if share > first)}):
        error = test.error(fitted.correction(share))
        if error < least:
            best, least = share, error
        elif best is not None:
            break
    return best


def held_back(images: Tensor) -> Tensor | None:
    """Return which rows are of held-back images, bool (rows,): the last quarter of them; None of fewer than four."""
    count = int(images.max()) + 1 if len(images) else 0
    if count < 4:
        return None
    held = images >= round((1 - HELD_SHARE) * count)
    return None if bool(held.all() | ~held.any()) else held


def damping_notes(left_out: list[str], damped: Mapping[str, float]) -> list[str]:
    """Return what a report says of the layers whose rows did not carry their whole correction.

    Args:
        left_out: layers that are not corrected.
        damped: layer -> damping, of those that are damped beyond their rows per column.
    """
    notes = []
    if left_out:
        notes.append(f'correction left out, images held back are worse off with it: {first_of(left_out, NAMED)}')
    if damped:
        layers = [f'{name} ({share:g})' for name, share in sorted(damped.items(), key=lambda item: -item[1])]
        notes.append(f'correction damped further, images held back are better off: {first_of(layers, NAMED)}')
    return notes
