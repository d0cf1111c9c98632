"""Images that were held back decide how much of a correction the rows carry."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.sequential.damping import NAMED, choose_damping, damping_notes, divided, held_back
from erq_mm.calibration.sequential.options import SequentialOptions
from erq_mm.core.row_problem import RowProblem

NOTES = ('left out', 'damped further')
IMAGES, ROWS, COLUMNS, OUTPUTS = 8, 40, 12, 5


def make_rows(noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rows whose residual is linear in them, plus noise."""
    torch.manual_seed(0)
    x = torch.randn(IMAGES * ROWS, COLUMNS)
    residual = x @ torch.randn(COLUMNS, OUTPUTS) + noise * torch.randn(len(x), OUTPUTS)
    return x, residual, torch.rand(len(x)) + 0.5, torch.arange(IMAGES).repeat_interleave(ROWS)


def test_a_residual_that_every_image_shares_is_damped_no_further() -> None:
    assert choose_damping(*divided(*make_rows(noise=0.1)), 0.001) == 0.001


def test_one_that_the_held_images_contradict_is_left_alone() -> None:
    """Planted: the images that are fitted say the opposite of those held back, so every correction does harm."""
    x, residual, weights, images = make_rows(noise=0.0)
    residual[images >= 6] *= -1
    assert choose_damping(*divided(x, residual, weights, images), 0.001) is None


def test_noise_alone_is_damped_to_the_share_of_least_error_by_hand() -> None:
    x, residual, weights, images = make_rows(noise=0.0)
    residual = 0.05 * residual + torch.randn_like(residual) * 3
    chosen = choose_damping(*divided(x, residual, weights, images), 0.001)
    fitted, held = images < 6, images >= 6
    problem, errors = RowProblem(x[fitted], residual[fitted], weights[fitted]), {None: 0.0}
    for share in (None, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0):  # row by row, with the best bias
        left = residual[held] - (x[held] @ problem.correction(share).T if share else 0)
        w = weights[held, None]
        left = left - (w * left).sum(0) / w.sum()
        errors[share] = float((w * left.square()).sum())
    assert chosen == min(errors, key=errors.__getitem__) != 0.001


def test_fewer_than_four_images_are_not_divided() -> None:
    x, residual, weights, images = make_rows(noise=1.0)
    assert divided(x, residual, weights, images // 3) is None
    assert held_back(images[:0]) is None and held_back(images * 0) is None
    assert torch.equal(held_back(images), images >= 6)


@pytest.mark.parametrize('rows', [2, 3, 300])
def test_the_report_says_which_layers(rows: int) -> None:
    torch.manual_seed(0)
    parts = {'alpha': nn.Linear(8, 64), 'gelu': nn.GELU(), 'omega': nn.Linear(64, 4)}
    model = nn.Sequential(OrderedDict(parts)).eval()
    task = erq_mm.ClassifierTask([torch.randn(rows, 8) for _ in range(8)])
    report = erq_mm.quantize_(model, task, {'type': 'serq', 'grids': 'uniform'}, 3, 3)
    said = set()
    for layer in report.layers:
        first = SequentialOptions().share(layer.rows, model.get_submodule(layer.name).in_features)
        is_named = {words: any(words in note and layer.name in note for note in report.notes) for words in NOTES}
        said |= {words for words in NOTES if is_named[words]}
        assert is_named['left out'] == (layer.damping is None)
        assert is_named['damped further'] == (layer.damping is not None and layer.damping > first)
    wanted = {2: {'left out'}, 3: {'left out', 'damped further'}, 300: {'damped further'}}[rows]
    assert len(report.layers) == 2 and said == wanted


def test_without_corrections_there_is_no_damping() -> None:
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    task = erq_mm.ClassifierTask([torch.randn(2, 8) for _ in range(8)])
    report = erq_mm.quantize_(model, task, {'type': 'serq', 'correct': False}, 3, 3)
    assert [layer.damping for layer in report.layers] == [None] and not report.notes


def test_notes_name_the_first_layers_and_count_the_others() -> None:
    assert damping_notes([], {}) == []
    left, damped = damping_notes([f'l{i}' for i in range(NAMED + 2)], {'a': 1.0, 'b': 100.0})
    assert left.endswith('l0, l1, l2, l3, l4 and 2 more')
    assert damped.endswith('b (100), a (1)')


@pytest.mark.parametrize('rows', [0, 1])
def test_no_row_and_one_row(rows: int) -> None:
    assert divided(*(values[:rows] for values in make_rows(noise=1.0))) is None
