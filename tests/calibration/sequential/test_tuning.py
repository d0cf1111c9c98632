"""The fine-tune of a block: what may move and what may not, when it is kept, and the gradients it follows."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.sequential.tuning import BlockCall, tune_block
from erq_mm.calibration.state import SiteState
from erq_mm.calibration.steps.fit_activations import fit_activations
from erq_mm.calibration.steps.sequential import sequential
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.quantizers.learning import Learner
from erq_mm.core.reparameterization import reparameterize
from erq_mm.core.spec import QuantSpec

from ..swin_classifier import make_classifier

BLOCK, SIZE = 'backbone.stages.0.blocks.1', (15, 13)


def quantized_block(bits: int) -> tuple[nn.Module, nn.Module, list[SiteState]]:
    """Return a shifted block quantized by `serq`, the float one, and its sites."""
    (model, task), recipe = make_classifier(), resolve_recipe('serq')
    quantized = copy.deepcopy(model)
    plan = plan_quantization(quantized, recipe, bits, bits, 'linears', {})
    calibration = swap_for_calibration(quantized, plan, task, 0, None)
    fit_activations(calibration)
    sequential(calibration)
    states = [state for state in calibration.sites if state.site.block == BLOCK]
    return quantized.get_submodule(BLOCK), model.get_submodule(BLOCK), states


def calls_of(block: nn.Module, count: int, weighted: bool = True) -> list[BlockCall]:
    tokens = [torch.randn(1, SIZE[0] * SIZE[1], 32) for _ in range(count)]
    with torch.no_grad():
        return [BlockCall((x, SIZE), {}, block(x, SIZE), weighted) for x in tokens]


def error(block: nn.Module, calls: Sequence[BlockCall]) -> float:
    with torch.no_grad():
        return sum(float(call.error(block)) for call in calls) / len(calls)


def codes_of(states: Sequence[SiteState]) -> list[Tensor]:
    layers = [state.layer for state in states if state.has_weight]
    return [layer.weight_matrix() / layer.weight_scale + layer.weight_zero_point for layer in layers]


@pytest.mark.parametrize('count', [2, 8])
def test_a_scale_that_is_off_comes_back_and_codes_stay(count: int) -> None:
    block, reference, states = quantized_block(6)
    layer = next(state.layer for state in states if state.has_weight)
    with torch.no_grad():
        layer.weight_scale *= 1.05
        layer.weight *= 1.05
    calls, before = calls_of(reference, count), codes_of(states)
    tuned = tune_block(block, states, calls, 60, seed=0)
    assert tuned.kept and tuned.after < 0.8 * tuned.before
    decided = calls[-2:]  # the last quarter of eight; of two both
    assert error(block, decided) == pytest.approx(tuned.after, rel=1e-4)
    for old, new in zip(before, codes_of(states), strict=True):
        torch.testing.assert_close(new, old.round(), rtol=0, atol=2e-3)
    assert all(quantizer.learner is None for state in states for quantizer in state.quantizers())


def test_held_back_calls_decide_and_what_is_not_kept_is_undone() -> None:
    """Those that train want another function, those held back the one that the block has: nothing moves."""
    block, reference, states = quantized_block(8)
    calls = calls_of(reference, 8)
    wrong = [BlockCall(call.args, {}, -3 * call.output, True) for call in calls[:6]]
    kept = [BlockCall(call.args, {}, block(*call.args).detach(), True) for call in calls[6:]]
    saved = copy.deepcopy(block.state_dict())
    tuned = tune_block(block, states, wrong + kept, 20, seed=0)
    assert not tuned.kept and tuned.before == tuned.after == 0
    for name, value in block.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings('ignore')
def test_targets_that_are_not_finite_change_nothing() -> None:
    block, reference, states = quantized_block(8)
    (call,) = calls_of(reference, 1)
    saved = copy.deepcopy(block.state_dict())
    tuned = tune_block(block, states, [BlockCall(call.args, {}, call.output * float('nan'), False)], 3, seed=0)
    assert not tuned.kept
    for name, value in block.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=1e-6, atol=1e-7)


def test_errors_of_tokens_are_divided_by_their_variance() -> None:
    wanted = torch.tensor([[[1.0, -1.0], [10.0, -10.0]]])
    call = BlockCall((wanted + 1,), {}, wanted, True)
    variances = torch.tensor([1.0, 100.0])
    expected = (2 / (variances + 0.02 * 50.5)).mean()
    torch.testing.assert_close(call.error(nn.Identity()), expected)
    torch.testing.assert_close(BlockCall((wanted + 1,), {}, wanted, False).error(nn.Identity()), torch.tensor(2.0))


def test_gradients_through_a_grid_of_every_channel() -> None:
    """Inside its range y = x / ratio - shift passes them divided by the ratio, outside nothing."""
    quantizer = build_quantizer(QuantSpec(4, grid='channel_uniform'), 3)
    scale, zero_point = torch.tensor([0.1, 0.5, 2.0]), torch.tensor([3.0, 8.0, 0.0])
    change = reparameterize(scale, zero_point, 15)
    quantizer.change_(change)
    quantizer.learner, quantizer.is_active = Learner(quantizer, learn_scale=True), True
    x = torch.tensor([[0.33, -1.2, 7.7], [50.0, 0.6, -3.0]], requires_grad=True)
    quantizer(x).sum().backward()
    inside = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(x.grad, inside / change.ratio.float())
    plain = copy.deepcopy(quantizer)
    plain.learner = None
    torch.testing.assert_close(quantizer(x), plain(x))


def test_the_recipe_reports_its_blocks_and_is_serq_elsewhere() -> None:
    model, task = make_classifier()
    models = [copy.deepcopy(model) for _ in range(2)]
    plain, tuned = (
        erq_mm.quantize_(m, task, recipe, 4, 4)
        for m, recipe in zip(models, ('serq', {'type': 'serq_tuned', 'tuning': 8}), strict=True)
    )
    names = [unit['name'] for unit in tuned.reconstruction]
    assert BLOCK in names and 'backbone.patch_embed' in names and not plain.reconstruction
    assert all(unit['after'] <= unit['before'] for unit in tuned.reconstruction)
    first = [m.backbone.patch_embed.projection for m in models]
    torch.testing.assert_close(*(layer.weight / layer.weight_scale.view(-1, 1, 1, 1) for layer in first))


@pytest.mark.parametrize('tuning', [-1, 2.5, True])
def test_steps_are_a_whole_number(tuning: object) -> None:
    with pytest.raises(ValueError, match='tuning must be a whole number'):
        erq_mm.quantize_(*make_classifier(), {'type': 'serq', 'tuning': tuning}, 4, 4)
