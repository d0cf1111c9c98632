"""A session for images of one size, and another for all other sizes, which is loaded when the first of them comes."""

from collections.abc import Callable, Sequence

from torch import Tensor

from .base import Session


class SizedSession(Session):
    """Engines run a graph faster whose sizes they know.

    Args:
        fixed: the session of the one size; precision, notes and kernels are its own.
        size: height and width of the images it takes.
        load_any: loads the session of any size.
    """

    def __init__(self, fixed: Session, size: tuple[int, int], load_any: Callable[[], Session]) -> None:
        self.fixed, self.size, self.load_any = fixed, size, load_any
        self.any: Session | None = None
        self.precision, self.notes = fixed.precision, fixed.notes

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if tuple(inputs[0].shape[2:]) == self.size:
            return self.fixed.run(inputs)
        if self.any is None:
            self.any = self.load_any()
        return self.any.run(inputs)

    def kernels(self) -> dict[str, str]:
        return self.fixed.kernels()

    def is_integer(self, kernel: str) -> bool:
        return self.fixed.is_integer(kernel)
