"""Specs refuse what cannot be quantized."""

import pytest

from erq_mm.core.spec import QuantSpec


@pytest.mark.parametrize('bits', [1, 9, 0, -4, 4.0, '4', True])
def test_bits_outside_the_range_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match='bits must be an integer from 2 to 8, got'):
        QuantSpec(bits)


@pytest.mark.parametrize(
    ('field', 'value'), [('granularity', 'block'), ('grid', 'log3'), ('percentiles', ()), ('percentiles', (1.5,))]
)
def test_unknown_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        QuantSpec(4, **{field: value})
