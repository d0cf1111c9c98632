"""Single huge values behind a GELU, as pretrained ViTs have: cut off as published, or kept where that errs less."""

import pytest
import torch
from torch import nn

import erq_mm

HUGE = 1000.0


@torch.no_grad()
def model_and_rows() -> tuple[nn.Sequential, torch.Tensor]:
    """Return a perceptron and 4,096 rows, of which the first makes one hidden value of 1,000 and the others none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 64), nn.GELU(), nn.Linear(64, 4))
    model[0].weight[:, 8] = 0
    model[0].weight[0, 8] = 1
    rows = torch.randn(4096, 9)
    rows[:, 8] = 0
    rows[0, 8] = HUGE
    return model, rows


@pytest.mark.parametrize('recipe', ['repq', 'erq'])
def test_a_huge_value_behind_a_gelu_stays_unless_the_published_percentiles_are_asked_for(recipe: str) -> None:
    largest = {}
    for published in (False, True):
        model, rows = model_and_rows()
        erq_mm.quantize_(model, lambda m: m(rows), {'type': recipe, 'published_percentiles': published}, 8, 8)  # noqa: B023
        largest[published] = float(model[2].input_quantizer(torch.tensor([[HUGE] + [0.0] * 63])).max())
    assert largest[False] == pytest.approx(HUGE, rel=0.01)
    assert largest[True] < 0.01 * HUGE


def test_ordinary_values_are_clipped_all_the_same() -> None:
    model, rows = model_and_rows()
    rows[0, 8] = 0
    erq_mm.quantize_(model, lambda m: m(rows), 'repq', 3, 3)
    quantizer = model[2].input_quantizer
    hidden = model[1](model[0](rows))
    assert float(quantizer(hidden).max()) < 0.95 * float(hidden.max())
