"""Places of hidden units dealt anew: what it brings, where it is done, and that copies are what they should be."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.sequential.channel_grids import search_channel_grid
from erq_mm.calibration.sequential.dealing import dealing_notes, interleaved
from erq_mm.core.spec import QuantSpec

UNITS = 24
NOTE = 'hidden units with a second place'


class Head(nn.Module):
    """What a box head is: two layers and two behind them. A few units are loud, and some say what others say."""

    def __init__(self, activation: nn.Module, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(10, UNITS), nn.Linear(UNITS, UNITS)
        self.scores, self.deltas = nn.Linear(UNITS, 5), nn.Linear(UNITS, 8)
        self.act = activation
        for layer, behind in ((self.first, [self.second]), (self.second, [self.scores, self.deltas])):
            layer.weight.data[6:12] = layer.weight.data[:6] + 0.01 * torch.randn(6, layer.in_features)
            layer.bias.data[6:12] = layer.bias.data[:6]
            for other in behind:
                other.weight.data[:, 18:22] *= 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.second(self.act(self.first(x))))
        return torch.cat([self.scores(h), self.deltas(h)], 1)


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(200, 10, generator=generator) for _ in range(5)]


def run(model: nn.Module) -> None:
    model(torch.cat(images()[:4]))


def quantized(model: nn.Module, bits: int = 4, overrides: dict | None = None, **options: object) -> tuple:
    changed = copy.deepcopy(model)
    report = erq_mm.quantize_(changed, run, {'type': 'serq'} | options, bits, bits, overrides=overrides or {})
    return changed, report


def dealt(report: erq_mm.Report) -> bool:
    return any(note.startswith(NOTE) for note in report.notes)


@torch.no_grad()
def unexplained(model: nn.Module, other: nn.Module) -> float:
    x = images()[4]
    wanted = model(x)
    return float((other(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize('activation', [nn.ReLU(), nn.GELU()], ids=['relu', 'gelu'])
def test_less_error_on_inputs_that_did_not_calibrate(activation: nn.Module, bits: int) -> None:
    without, with_copies = 0.0, 0.0
    for seed in range(3):
        model = Head(activation, seed).eval()
        changed, report = quantized(model, bits)
        assert dealt(report)
        with_copies += unexplained(model, changed)
        plain, report = quantized(model, bits, dealing=False)
        assert not dealt(report)
        without += unexplained(model, plain)
    assert with_copies < 0.85 * without


def test_the_report_names_the_layers_and_how_many_units() -> None:
    _, report = quantized(Head(nn.ReLU()).eval())
    (note,) = (note for note in report.notes if note.startswith(NOTE))
    assert f' of {UNITS})' in note and 'first (' in note and 'second (' in note
    assert dealing_notes({}) == []


def test_copies_are_alike_and_units_given_up_are_gone() -> None:
    model = Head(nn.ReLU()).eval()
    changed, _ = quantized(model)
    with torch.no_grad():
        h = changed.act(changed.first(images()[4]))
        correlation = torch.corrcoef(h.T) - torch.eye(UNITS)
    alike = (correlation > 0.98).any(1)
    loud = torch.arange(18, 22)
    assert int(alike[loud].sum()) >= 3  # they have a copy; in the float model they have none
    assert changed.first.weight.shape == model.first.weight.shape
    assert changed.second.weight.shape == model.second.weight.shape


@pytest.mark.parametrize('grids', ['uniform', 'published'])
def test_only_where_there_are_tables(grids: str) -> None:
    _, report = quantized(Head(nn.ReLU()).eval(), grids=grids)
    assert not dealt(report)


def test_not_above_five_bits() -> None:
    assert not dealt(quantized(Head(nn.ReLU()).eval(), 6)[1])


def test_a_layer_behind_that_stays_float_keeps_its_inputs() -> None:
    model = Head(nn.ReLU()).eval()
    changed, report = quantized(model, overrides={'deltas': 'float'})
    (note,) = (note for note in report.notes if note.startswith(NOTE))
    assert 'first (' in note and 'second (' not in note
    assert torch.equal(changed.deltas.weight, model.deltas.weight)


def test_without_a_look_at_the_whole_forward_nothing_is_dealt() -> None:
    model = Head(nn.ReLU()).eval()
    report = erq_mm.quantize_(model, run, 'serq', 4, 4, full_account=False)
    assert not dealt(report)


def test_one_row_and_no_rows_deal_nothing() -> None:
    for rows in (0, 1):
        model = Head(nn.ReLU()).eval()
        erq_mm.quantize_(model, lambda m, rows=rows: m(torch.randn(rows, 10)), 'serq', 4, 4)
        assert bool(model(images()[4]).isfinite().all())


@pytest.mark.parametrize('activation', [nn.ReLU(), nn.GELU()], ids=['relu', 'gelu'])
def test_levels_of_copies_lie_between_those_of_their_units(activation: nn.Module) -> None:
    torch.manual_seed(0)
    x = activation(torch.randn(2000, 6) * torch.tensor([3.0, 1, 1, 1, 1, 1]))
    x[:, 4], x[:, 5] = x[:, 0], x[:, 1]
    weights, pairs = torch.ones(2000), [(0, 4), (1, 5)]
    grid = search_channel_grid(x, weights, torch.ones(6), QuantSpec(4, grid='channel_levels'), 1.1)
    changed = interleaved(grid, x, weights, pairs)

    def error(of: object) -> torch.Tensor:
        y = of.rounded(x)
        return ((y[:, [0, 1]] + y[:, [4, 5]]) / 2 - x[:, [0, 1]]).square().mean(0)

    alone = (grid.rounded(x)[:, [0, 1]] - x[:, [0, 1]]).square().mean(0)
    assert bool((error(changed) < 0.55 * alone).all())
    assert torch.equal(changed.change.ratio[:4], grid.change.ratio[:4])
    assert torch.equal(changed.change.shift[:4], grid.change.shift[:4])
    if isinstance(activation, nn.ReLU):  # stretched about zero, where most values lie
        assert torch.equal(changed.change.shift, grid.change.shift)


def test_rounded_is_what_the_quantizer_does() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 7) * torch.arange(1, 8)
    spec = QuantSpec(4, grid='channel_levels')
    grid = search_channel_grid(x, torch.ones(300), torch.ones(7), spec, 1.0)
    quantizer = erq_mm.core.quantizers.build_quantizer(spec, 7)
    grid.install_(quantizer)
    y = quantizer.fake_quantize(x)
    wanted = (y + grid.change.shift.float()) * grid.change.ratio.float()
    torch.testing.assert_close(grid.rounded(x), wanted, rtol=1e-5, atol=1e-5)


def test_changed_grids_keep_their_table() -> None:
    x = torch.rand(100, 3)
    grid = search_channel_grid(x, torch.ones(100), torch.ones(3), QuantSpec(4, grid='channel_levels'), 1.0)
    moved = grid.changed(1.1, torch.tensor([0.0, 0.5, 0.0]))
    assert torch.equal(moved.table, grid.table)
    torch.testing.assert_close(moved.change.ratio, grid.change.ratio * 1.1)
    same = moved.where(torch.zeros(3, dtype=torch.bool), grid)
    assert torch.equal(same.change.ratio, grid.change.ratio) and torch.equal(same.change.shift, grid.change.shift)
    assert replace(grid, table=None).table is None
