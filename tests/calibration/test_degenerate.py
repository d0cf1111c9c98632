"""Calibration images that are no sample are told of, ordinary ones are not."""

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.degenerate import clipping_watched, warn_of_clipping


def quantized(data: torch.Tensor, recipe: str = 'erq') -> tuple[nn.Module, erq_mm.Report]:
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    return model, erq_mm.quantize_(model, erq_mm.ClassifierTask([data]), recipe)


@pytest.mark.parametrize('recipe', ['erq', 'serq'])  # serq counts one value in 16
@pytest.mark.parametrize('rows', [15, 16])
def test_rows_are_counted_whatever_part_of_the_values_is(rows: int, recipe: str) -> None:
    notes = quantized(torch.randn(rows, 6), recipe)[1].notes
    assert any('saw fewer than 16 rows' in note for note in notes) == (rows < 16)


def test_an_ordinary_sample_gives_no_note() -> None:
    assert quantized(torch.randn(200, 6))[1].notes == []


@pytest.mark.parametrize(('data', 'what'), [
    (torch.randn(15, 6), '2 layers saw fewer than 16 rows: 0, 2'),
    (torch.full((200, 6), 3.0), '1 layers saw one single value: 0'),
])  # fmt: skip
def test_degenerate_inputs_are_named(data: torch.Tensor, what: str) -> None:
    assert f'degenerate calibration (images [1]): {what}' in quantized(data)[1].notes


def test_share_that_is_clipped() -> None:
    """A grid from -8 to 7 in steps of 1, worked by hand: half a step beyond either end still rounds to it."""
    model, _ = quantized(torch.randn(200, 6))
    model[0].input_quantizer.set_parameters(1.0, 8.0)
    x = torch.tensor([[-8.4, -8.6, 0.0, 7.4, 7.6, 100.0]])
    with clipping_watched(model) as shares, torch.no_grad():
        model(x)
        model(torch.zeros(1, 6))
        found = shares()
    assert found['0.input_quantizer'] == pytest.approx(3 / 12)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_note_only_where_much_is_clipped() -> None:
    assert warn_of_clipping({'a.input_quantizer': 0.2}, [7]) == []
    (note,) = warn_of_clipping({'a.input_quantizer': 0.3, 'b.input_quantizer': 0.9, 'c.left_quantizer': 0.1}, [7])
    assert note == 'degenerate calibration (images [7]): 2 layers clip more than 25% of their input at test time: b, a'


def test_a_sample_unlike_the_rest_is_told_of() -> None:
    model, _ = quantized(0.01 * torch.randn(200, 6))
    with clipping_watched(model) as shares, torch.no_grad():
        model(torch.randn(200, 6))
    assert warn_of_clipping(shares(), [1])
