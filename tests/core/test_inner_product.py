"""Sums of products of matrices."""

import pytest
import torch

from erq_mm.core.inner_product import inner_product


def test_a_number_worked_by_hand() -> None:
    left, right = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert float(inner_product(left, right)) == 5 + 12 + 21 + 32
    assert float(inner_product(left, right.T)) == 5 + 14 + 18 + 32


@pytest.mark.parametrize('size', [(0, 3), (3, 0), (1, 1), (700, 900)])
def test_is_as_exact_as_its_terms(size: tuple[int, int]) -> None:
    left, right = torch.randn(size), torch.randn(size)
    terms = left.double() * right.double()
    product = inner_product(left, right)
    assert product.dtype == torch.float64
    assert abs(float(product - terms.sum())) <= 1.2e-7 * float(terms.abs().sum())
