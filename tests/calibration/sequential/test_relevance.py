"""Rows of which the model makes much count more than others."""

import copy

import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.sequential.rows import relevance_weights


def test_every_entry_is_as_many_rows_as_there_are_per_entry() -> None:
    relevance = torch.tensor([0.25, 1.0])
    torch.testing.assert_close(relevance_weights(relevance, 2), relevance)
    torch.testing.assert_close(relevance_weights(relevance, 4), torch.tensor([0.25, 0.25, 1.0, 1.0]))


def test_rows_that_are_no_multiple_of_the_entries_count_alike() -> None:
    assert relevance_weights(torch.ones(2), 3) is None
    assert relevance_weights(torch.ones(0), 3) is None
    assert relevance_weights(None, 3) is None


def test_an_image_without_rows_does_not_keep_others_from_theirs() -> None:
    assert relevance_weights(torch.ones(0), 0).shape == (0,)
    assert relevance_weights(torch.ones(2), 0).shape == (0,)


class Halves(erq_mm.ClassifierTask):
    """The second half of every batch is of no use to anybody."""

    def relevance(self, model: nn.Module, name: str, indices: list[int]) -> Tensor:
        sizes = [len(self.batches[index]) for index in indices]
        return torch.cat([torch.arange(size) < size // 2 for size in sizes]).float() + 0.2


def test_errors_of_relevant_rows_are_less_and_those_of_others_more() -> None:
    errors = torch.stack([_errors(seed) for seed in range(3)]).sum(0)
    assert errors[1, 0] < errors[0, 0]
    assert errors[1, 1] > errors[0, 1]


def _errors(seed: int) -> Tensor:
    """Return the mean squared errors of both halves, without weights and with them, (2, 2)."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6)).eval()
    turn = torch.randn(2, 12, 12)

    def batch() -> Tensor:  # two halves that live on different axes
        return torch.cat([torch.randn(128, 12) @ turn[half] * (1 + 2 * half) for half in (0, 1)])

    task = Halves([batch() for _ in range(4)])
    tests, errors = torch.stack([batch() for _ in range(8)]), []
    for is_weighted in (False, True):
        quantized = copy.deepcopy(model)
        recipe = {'type': 'serq', 'region_weights': is_weighted, 'dealing': False}
        erq_mm.quantize_(quantized, task, recipe=recipe, w_bits=3, a_bits=4, scope='all')
        with torch.no_grad():
            error = (quantized(tests) - model(tests)).square().mean((0, 2))
        errors.append(error.view(2, 128).mean(1))
    return torch.stack(errors)
