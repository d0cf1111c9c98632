"""The proof that a swapped and reparameterized model is the float model, and what it does about those that are not."""

import copy
import importlib

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.function_guard import CALLS_PER_MODULE, OUTPUT_VALUES, FunctionGuard
from erq_mm.nn import QuantLinear

from ..nn.swin import make_swin
from .swin_classifier import make_classifier


def test_what_was_proven_is_in_the_report() -> None:
    model, task = make_classifier()
    report = erq_mm.quantize_(model, task, 'erq')
    proven = report.checks['same_function']
    assert set(proven) == {'swap of the layers', 'reparameterization'}
    for finding in proven.values():
        assert finding['compared_calls'] > 50
        assert 0 <= finding['largest_difference'] < 1e-5 < finding['tolerance']
    assert report.checks['full_account'] is True
    assert 'probe' in report.seconds


@pytest.mark.parametrize('recipe', ['repq', 'erq', 'rtn'])
def test_forwards_it_costs(recipe: str) -> None:
    """One of the first image; recipes without a pass behind the reparameterization need another one."""
    counts = []
    for checks in (False, True):
        model, task = make_classifier()
        calls = []
        model.register_forward_pre_hook(lambda _module, _args, calls=calls: calls.append(1))
        erq_mm.quantize_(model, task, recipe, same_function=checks, full_account=checks)
        counts.append(len(calls))
    assert counts[1] - counts[0] == {'repq': 2, 'erq': 1, 'rtn': 1}[recipe]


def test_both_checks_can_be_switched_off_and_change_nothing_else() -> None:
    states = []
    for options in (
        {},
        {'same_function': False},
        {'full_account': False},
        {'same_function': False, 'full_account': False},
    ):
        torch.manual_seed(0)
        model, task = make_classifier()
        report = erq_mm.quantize_(model, task, 'erq', **options)
        assert (report.checks['same_function'] == 'off') == ('same_function' in options)
        assert (report.checks['full_account'] == 'off') == ('full_account' in options)
        states.append(model.state_dict())
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in states[0])


def test_a_swapped_module_that_computes_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from erq_mm.nn.attention import QuantWindowMSA

    fit_activations = importlib.import_module('erq_mm.calibration.steps.fit_activations')
    position_bias = QuantWindowMSA.position_bias
    monkeypatch.setattr(QuantWindowMSA, 'position_bias', lambda self: position_bias(self).transpose(1, 2))
    fitted = []
    monkeypatch.setattr(fit_activations, '_fit_site', fitted.append)
    model, task = make_classifier()
    for name, parameter in model.named_parameters():
        if name.endswith('position_bias_table'):
            parameter.data.normal_()
    with pytest.raises(
        RuntimeError, match=r'after the swap of the layers.* output of backbone.stages.0.blocks.0.attn'
    ) as e:
        erq_mm.quantize_(model, task, 'repq')
    assert 'same_function=False' in str(e.value) and not fitted
    assert not any(isinstance(module, (QuantLinear, QuantWindowMSA)) for module in model.modules())


@pytest.mark.parametrize('recipe', ['repq', 'erq'])
def test_a_wrong_fold_is_found_before_any_weight_is_fitted(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = importlib.import_module('erq_mm.calibration.steps.reparameterize')
    fold = step.fold_

    def forget_the_shift(norm_weight, norm_bias, linears, change) -> None:
        linears = list(linears)
        kept = [bias.clone() for _, bias in linears]
        fold(norm_weight, norm_bias, linears, change)
        for (_, bias), old in zip(linears, kept, strict=True):
            bias.copy_(old)

    monkeypatch.setattr(step, 'fold_', forget_the_shift)
    model, task = make_classifier()
    with pytest.raises(
        RuntimeError, match=r'after the reparameterization.* output of backbone.stages.0.blocks.0.attn.w_msa.qkv'
    ):
        erq_mm.quantize_(model, task, recipe)
    assert not any(layer.has_quantized_weight for layer in model.modules() if isinstance(layer, QuantLinear))


def test_zero_padding_as_published_is_no_fault() -> None:
    """It changes the function on purpose; only the swap is proven then."""
    model, task = make_classifier()
    report = erq_mm.quantize_(model, task, {'type': 'erq', 'exact_pad': False})
    assert set(report.checks['same_function']) == {'swap of the layers'}


class HiddenList(nn.Module):
    """Keeps its layers in a plain list besides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        self.steps = [self.first, torch.relu, self.second]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def test_a_float_layer_held_elsewhere_is_found_and_the_model_is_float_again() -> None:
    model, x = HiddenList(), torch.randn(30, 8)
    before = model(x)
    with pytest.raises(RuntimeError, match='first ran 0 times where the float model ran it 1 times: the model holds'):
        erq_mm.quantize_(model, lambda m: m(x), 'erq')
    assert type(model.first) is type(model.second) is nn.Linear
    assert torch.equal(model(x), before)


class Chooses(nn.Module):
    """Takes the best of nearly equal candidates: rounding errors decide, as among the queries of an untrained DETR."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(8, 1), nn.Linear(8, 4)
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(x).squeeze(-1)
        order = (scores + 1e-3 * torch.arange(len(scores))).argsort() if self.broken else scores.argsort()
        return self.head(x[order])


def nearly_equal_rows() -> Tensor:
    torch.manual_seed(1)
    score = torch.randn(8)
    rows = torch.randn(400, 8)
    return rows - (rows @ score / score.dot(score))[:, None] * score, score


def test_decisions_that_rounding_errors_turn_over_are_a_note() -> None:
    """The layer is replaced by one that computes the same in another order; the order of the rows changes."""
    rows, score = nearly_equal_rows()
    model = Chooses()
    with torch.no_grad():
        model.score.weight.copy_(score)
        model.score.bias.fill_(1)
    guard = FunctionGuard()
    changed = copy.deepcopy(model)
    changed.score.forward = lambda x: (x.flip(-1) * model.score.weight.flip(-1)).sum(-1, keepdim=True) + 1
    with torch.no_grad():
        with guard.remember(model):
            model(rows)
        with guard.observe(changed):
            changed(rows)
        note = guard.verify('swap', changed, set(), ['score'], lambda: changed(rows))
    assert 'decisions that rounding errors turn over' in note


def test_a_fault_behind_a_decision_is_still_a_fault() -> None:
    rows, score = nearly_equal_rows()
    model = Chooses()
    guard, changed = FunctionGuard(), copy.deepcopy(model)
    changed.head.weight.data.mul_(1.01)
    with torch.no_grad():
        with guard.remember(model):
            model(rows)
        with guard.observe(changed):
            changed(rows)
        with pytest.raises(RuntimeError, match='output of head .Linear. differs by 0.0'):
            guard.verify('swap', changed, set(), [], lambda: changed(rows))


@pytest.mark.parametrize('size', [1, OUTPUT_VALUES, 5 * OUTPUT_VALUES])
@pytest.mark.parametrize(('change', 'is_fault'), [(5e-5, False), (2e-3, True)])
def test_a_difference_is_relative_to_the_output(change: float, is_fault: bool, size: int) -> None:
    model, x = nn.Sequential(nn.Identity()), torch.randn(size)
    guard, changed = FunctionGuard(), nn.Sequential(nn.Identity())
    changed[0].forward = lambda y: y * (1 + change)
    with guard.remember(model):
        model(x)
    with guard.observe(changed):
        changed(x)
    if is_fault:
        with pytest.raises(RuntimeError, match='output of 0 .Identity. differs by 0.002'):
            guard.verify('swap', changed, set(), [], lambda: changed(x))
    else:
        guard.verify('swap', changed, set(), [], lambda: changed(x))
        assert guard.findings['swap']['largest_difference'] == pytest.approx(change, rel=1e-2)


def test_nan_infinity_and_no_tensors_at_all_compare() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> dict:
            return {'nan': x / 0, 'none': None, 'text': 'a', 'empty': x[:0], 'flag': x > 0}

    model, guard, x = Odd(), FunctionGuard(), torch.tensor([0.0, 1.0, -1.0])
    with guard.remember(model):
        model(x)
    with guard.observe(model):
        model(x)
    assert guard.verify('swap', model, set(), [], lambda: model(x)) is None


def test_what_is_kept_does_not_grow_with_the_calls() -> None:
    model, guard = nn.Sequential(nn.Linear(4, 4)), FunctionGuard()
    with guard.remember(model):
        for _ in range(3 * CALLS_PER_MODULE):
            model(torch.randn(2, 4))
    assert len(guard._reference.calls) == 2 * CALLS_PER_MODULE


def test_an_attention_that_works_in_parts_is_compared_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from erq_mm.nn import attention

    monkeypatch.setattr(attention, 'WINDOWS_PER_CHUNK', 1)
    test_what_was_proven_is_in_the_report()
    test_a_swapped_module_that_computes_something_else_is_named(monkeypatch)


@torch.no_grad()
def test_windows_that_pad_are_compared_as_well() -> None:
    model, x = make_swin(), torch.randn(1, 3, 57, 203)
    report = erq_mm.quantize_(model, lambda m: m(x), 'erq')
    assert report.checks['same_function']['reparameterization']['largest_difference'] < 1e-5
