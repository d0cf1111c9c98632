"""Half of a symmetric sum against the whole product."""

import pytest
import torch

from erq_mm.core.gram_sum import COLUMNS, GramSum


@pytest.mark.parametrize('size', [0, 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS - 5])
def test_equals_the_product_whenever_it_is_read(size: int) -> None:
    rows = torch.randn(70, size).double()
    total = GramSum(rows.new_zeros(size, size))
    assert not total.whole().any()
    seen = 0
    for count in (40, 0, 1, 29):
        total.add(rows[seen : seen + count])
        seen += count
        torch.testing.assert_close(total.whole(), rows[:seen].T @ rows[:seen])


def test_sums_into_a_view() -> None:
    """As Gram matrices with a column of ones do, whose last row and column are somebody else's."""
    rows, matrix = torch.randn(9, 300), torch.full((301, 301), 7.0)
    matrix[:-1, :-1] = 0
    total = GramSum(matrix[:-1, :-1])
    total.add(rows)
    torch.testing.assert_close(total.whole(), rows.T @ rows)
    assert bool((matrix[-1] == 7).all()) and bool((matrix[:, -1] == 7).all())
