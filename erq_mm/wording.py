"""Words that several messages share."""

from collections.abc import Sequence


def first_of(names: Sequence[str], most: int) -> str:
    """Return the first names and how many there are besides, as in `a, b and 3 more`."""
    rest = len(names) - most
    return ', '.join(names[:most]) + (f' and {rest} more' if rest > 0 else '')
