"""Reconstruction on a small Swin: objectives by hand, what it may not touch, and resuming after a kill."""

import copy
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.reconstruction import trainer
from erq_mm.calibration.reconstruction.capture import Call, RowCapture, Rows, capture_calls
from erq_mm.calibration.reconstruction.objectives import BlockObjective, RowsObjective, dropped, softmax_divergence
from erq_mm.calibration.reconstruction.options import ReconstructionOptions
from erq_mm.calibration.reconstruction.sensitivity import fisher_weights, global_term, perturbation_weights
from erq_mm.calibration.state import differentiable
from erq_mm.core.quantizers import Quantizer
from erq_mm.core.random_source import RandomSource
from erq_mm.core.spec import QuantSpec
from erq_mm.nn import QuantLayer, QuantLinear

from .small_recipes import RECONSTRUCTIONS, small
from .swin_classifier import make_classifier

BLOCK = 'backbone.stages.0.blocks.1'


def reconstructed(recipe: dict | str, w_bits: int = 3, **options: object):
    torch.manual_seed(0)
    model, task = make_classifier()
    return model, erq_mm.quantize_(model, task, recipe, w_bits, 4, **options)


@pytest.mark.parametrize('name', RECONSTRUCTIONS)
def test_no_objective_rises_and_nothing_else_changes(name: str) -> None:
    model, report = reconstructed(small(name, images=2))
    assert report.reconstruction
    for unit in report.reconstruction:
        assert unit['after'] <= unit['before'], unit
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(hasattr(m, 'parametrizations') for m in model.modules())
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer)]
    assert all(q.is_active and q.learner is None for q in quantizers)
    for layer in (m for m in model.modules() if isinstance(m, QuantLayer)):
        codes = layer.weight_matrix() / layer.weight_scale + layer.weight_zero_point
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)


def test_every_block_and_layer_is_a_unit() -> None:
    _, report = reconstructed(small('qdrop'))
    names = [unit['name'] for unit in report.reconstruction]
    blocks = [f'backbone.stages.{s}.blocks.{b}' for s in (0, 1) for b in (0, 1)]
    assert names == [
        'backbone.patch_embed', *blocks[:2], 'backbone.stages.0.downsample', *blocks[2:], 'head',
    ]  # fmt: skip
    _, report = reconstructed(small('adaround'))
    assert {u['name'] for u in report.reconstruction} == {la.name for la in report.layers if la.kind != 'matmul'}
    _, report = reconstructed(small('aphq'))
    assert [unit['name'] for unit in report.reconstruction] == names[:-1]  # the head is only calibrated


def test_training_lowers_the_objective_of_most_units() -> None:
    _, report = reconstructed(small('qdrop', iterations=60, images=3, drop=0.0))
    falls = [unit['after'] / unit['before'] for unit in report.reconstruction]
    assert sum(fall < 0.95 for fall in falls) >= 0.7 * len(falls)


def test_batch_norm_statistics_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1))
    images = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    model(images[0])  # statistics away from their initial values
    before = copy.deepcopy(model[1].state_dict())
    erq_mm.quantize_(model, lambda m: [m(x) for x in images], small('adaround'), scope='all')
    assert all(torch.equal(before[key], value) for key, value in model[1].state_dict().items())


def test_a_module_in_training_mode_is_refused() -> None:
    with (
        pytest.raises(RuntimeError, match=r"modules \['', '0'\] are in training mode"),
        differentiable(nn.Sequential(nn.Dropout())),
    ):
        pytest.fail('entered')


def test_a_killed_reconstruction_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small('qdrop', images=2)
    whole, _ = reconstructed(recipe)
    trained: list[str] = []
    train = trainer.UnitTrainer.train

    def counted(self, *args):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(self.unit.name)
        return train(self, *args)

    monkeypatch.setattr(trainer.UnitTrainer, 'train', counted)
    with pytest.raises(KeyboardInterrupt):
        reconstructed(recipe, work_dir=tmp_path)
    monkeypatch.setattr(
        trainer.UnitTrainer, 'train', lambda self, *a: (trained.append(self.unit.name), train(self, *a))[1]
    )
    resumed, report = reconstructed(recipe, work_dir=tmp_path)
    assert len(trained) == len(set(trained)) == len(report.reconstruction)
    expected = whole.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in resumed.state_dict().items())


@pytest.mark.parametrize('change', [dict(w_bits=4), dict(seed=1), dict(overrides={'head': 'float'})])
def test_units_of_other_settings_are_not_taken_over(change: dict, tmp_path: Path) -> None:
    recipe = small('adaround')
    reconstructed(recipe, work_dir=tmp_path)
    expected = reconstructed(recipe, **change)[0].state_dict()
    found = reconstructed(recipe, **change, work_dir=tmp_path)[0].state_dict()
    assert all(torch.equal(expected[key], value) for key, value in found.items())
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_objective_by_hand() -> None:
    layer = QuantLinear(nn.Linear(3, 2), QuantSpec(4, 'row'), QuantSpec(4))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach()
    rows = Rows(torch.randn(7, 3), torch.randn(7, 3))
    with torch.no_grad():
        layer.weight.mul_(1.5)
        total = RowsObjective(layer, rows, weight, bias, ReconstructionOptions()).total()
    expected = sum(
        float(((1.5 * weight @ x_q - weight @ x) ** 2).sum()) for x, x_q in zip(rows.x, rows.x_q, strict=True)
    )
    assert float(total) == pytest.approx(expected / 7, rel=1e-5)


def test_block_objective_by_hand_and_relative_terms() -> None:
    block, reference = nn.Linear(3, 2), nn.Linear(3, 2)
    inputs = [torch.randn(4, 3) for _ in range(2)]
    calls = [Call(i, x, (), {}, reference(x).detach(), x, x.device) for i, x in enumerate(inputs)]
    weights = [torch.rand(4, 2) for _ in calls]
    options = ReconstructionOptions(global_weight=3.0)
    objective = BlockObjective(block, reference, calls, options, weights, lambda index, output: output.sum() + index)
    with torch.no_grad():
        errors = [((block(c.x) - c.output) ** 2 * w).sum(1).mean() for c, w in zip(calls, weights, strict=True)]
        sums = [block(c.x).sum() + i for i, c in enumerate(calls)]
        expected = sum(errors) / 2 + 3 * sum(sums) / 2
        torch.testing.assert_close(objective.total(), expected)
        relative = BlockObjective(block, reference, calls, ReconstructionOptions(relative_terms=True), weights)
        assert float(relative.total()) == pytest.approx(1)
        block.weight.zero_(), block.bias.zero_()
        torch.testing.assert_close(relative.total(), _mean_error(calls, weights) / (sum(errors) / 2))


def _mean_error(calls: list[Call], weights: list[torch.Tensor]) -> torch.Tensor:
    return sum((c.output**2 * w).sum(1).mean() for c, w in zip(calls, weights, strict=True)) / len(calls)


def test_softmax_divergence_by_hand() -> None:
    wanted, output = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, torch.log(torch.tensor(3.0))]])
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.25)) + 0.5 * torch.log(torch.tensor(0.5 / 0.75))
    torch.testing.assert_close(softmax_divergence(output, wanted), expected)


def test_dropping() -> None:
    x, x_q, source = torch.zeros(100, 100), torch.ones(100, 100), RandomSource(0)
    assert dropped(x, x_q, 0.0, source) is x_q
    assert float(dropped(x, x_q, 0.3, source).mean()) == pytest.approx(0.7, abs=0.02)


def test_fisher_weights_are_squared_gradients_of_mean_one() -> None:
    model, task = make_classifier()
    task(model)
    with differentiable(model):
        calls = capture_calls(model, model, BLOCK, task, range(2), quantized=False)
        weights = fisher_weights(model, BLOCK, task, calls)
    kept = []
    handle = model.get_submodule(BLOCK).register_forward_hook(
        lambda _m, _a, out: (out.retain_grad(), kept.append(out))[0]
    )
    squares = []
    for index in range(2):
        model.zero_grad()
        task.loss(model, index).backward()
        squares.append(kept[-1].grad.square())
    handle.remove()
    mean = torch.stack(squares).mean()
    for weight, square in zip(weights, squares, strict=True):
        torch.testing.assert_close(weight, square / mean, rtol=1e-3, atol=1e-6)


class _Quadratic(erq_mm.CalibrationTask):
    """The divergence is 1/2 sum c (y - y_ref)^2 of the output: its Hessian is c."""

    curvature = torch.tensor([1.0, 4.0, 0.0, 9.0])

    def __len__(self) -> int:
        return 2

    def forward(self, model: nn.Module, index: int) -> None:
        self.predict(model, index)

    def predict(self, model: nn.Module, index: int) -> tuple[torch.Tensor, ...]:
        return (model(torch.linspace(-1, 1, 3)[None] + index),)

    def divergence(self, predictions: tuple[torch.Tensor, ...], reference: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return 0.5 * (self.curvature * (predictions[0] - reference[0]).square()).sum()


def test_perturbation_weights_are_the_hessian_of_a_quadratic() -> None:
    model, task = nn.Sequential(nn.Linear(3, 4)), _Quadratic()
    model.eval()
    with differentiable(model):
        calls = capture_calls(model, model, '0', task, range(2), quantized=False)
        weights = perturbation_weights(model, '0', task, calls, step=1e-2)
        divergence = global_term(model, '0', task, calls)
        assert float(divergence(1, calls[1].output)) == 0
        moved = divergence(0, calls[0].output + torch.tensor([1.0, 1.0, 1.0, 0.0]))
    for weight in weights:
        torch.testing.assert_close(weight[0], task.curvature / task.curvature.mean(), rtol=1e-3, atol=1e-3)
    assert float(moved) == pytest.approx(2.5, rel=1e-5)


def test_captured_calls_and_rows_belong_together() -> None:
    """The second model doubles every input of the layer: so do its rows, at the same positions."""
    reference = nn.Sequential(nn.Identity(), QuantLinear(nn.Linear(3, 2), QuantSpec(4, 'row'), QuantSpec(4)))
    model = nn.Sequential(nn.Linear(3, 3, bias=False), reference[1])
    with torch.no_grad():
        model[0].weight.copy_(2 * torch.eye(3))
    task = erq_mm.ClassifierTask([torch.randn(50, 3), torch.randn(30, 3)])
    capture = RowCapture(reference, {'1': 0}, task, range(2), 20)
    rows = capture.rows('1', model)
    assert rows.x.shape == (20, 3)
    torch.testing.assert_close(rows.x_q, 2 * rows.x)
    calls = capture_calls(model, reference, '1', task, range(2), quantized=True)
    assert [call.image for call in calls] == [0, 1]
    for call in calls:
        torch.testing.assert_close(call.x_q, 2 * call.x)
        torch.testing.assert_close(call.output, reference[1](call.x))


def test_rows_of_a_layer_see_the_layers_quantized_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, Rows] = {}

    class Recorded(RowsObjective):
        def __init__(self, layer: QuantLayer, rows: Rows, *others: object) -> None:
            super().__init__(layer, rows, *others)
            seen[layer.in_features] = rows

    step = importlib.import_module('erq_mm.calibration.steps.reconstruct')  # the package's attribute is the function
    monkeypatch.setattr(step, 'RowsObjective', Recorded)
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)))  # one part of the model
    reference, x = copy.deepcopy(model), torch.randn(40, 3)
    erq_mm.quantize_(model, erq_mm.ClassifierTask([x]), small('adaround'), 2, 4)
    with torch.no_grad():
        torch.testing.assert_close(seen[5].x, reference[0][0](x))
        torch.testing.assert_close(seen[5].x_q, model[0][0](x))
        assert not torch.allclose(seen[5].x, seen[5].x_q, atol=0.1)


class _Backwards(nn.Module):
    """Layers that are called in the reverse of their order as modules, as in mmdet's box heads."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.Linear(5, 2), nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_layers_are_reconstructed_in_the_order_of_their_calls() -> None:
    model = nn.Sequential(_Backwards())
    report = erq_mm.quantize_(model, erq_mm.ClassifierTask([torch.randn(40, 3)]), small('adaround'))
    assert [unit['name'] for unit in report.reconstruction] == ['0.first', '0.second']


def test_a_forward_ends_at_the_layer_whose_rows_are_wanted() -> None:
    """The layer is called twice an image: its rows are complete, and nothing behind it runs."""
    layer = QuantLinear(nn.Linear(3, 3), QuantSpec(4, 'row'), QuantSpec(4))
    model = nn.Sequential(layer, layer, nn.Identity())
    ran: list[nn.Module] = []
    model[2].register_forward_hook(lambda module, _args, _out: ran.append(module))
    capture = RowCapture(model, {'0': 0}, erq_mm.ClassifierTask([torch.randn(4, 3)]), range(1), 20)
    assert len(ran) == 1
    rows = capture.rows('0', model)
    assert len(ran) == 1 and rows.x.shape == (8, 3)
    torch.testing.assert_close(rows.x_q, rows.x)


def test_a_layer_that_is_never_called_has_no_rows() -> None:
    model = nn.ModuleList([QuantLinear(nn.Linear(3, 3), QuantSpec(4, 'row'), QuantSpec(4)) for _ in range(2)])
    model.forward = lambda x: model[0](x)
    capture = RowCapture(model, {'0': 0, '1': 1}, erq_mm.ClassifierTask([torch.randn(4, 3)]), range(1), 20)
    assert capture.rows('1', model) is None and len(capture.rows('0', None).x) == 4


def test_fast_versions_have_names_of_their_own() -> None:
    from erq_mm.calibration.recipes import resolve_recipe

    assert resolve_recipe('qdrop_fast') == resolve_recipe({'type': 'qdrop', 'preset': 'fast'})
    assert resolve_recipe('qdrop').images == 256 and resolve_recipe('qdrop_fast').images == 8
    with pytest.raises(ValueError, match="unknown recipe 'erq_fast'; recipes are .*'qdrop_fast'"):
        resolve_recipe('erq_fast')


BAD = [
    (dict(type='qdrop', preset='quick'), "preset must be one of .*'fast'.*, got 'quick'"),
    (dict(type='qdrop', iteration=5), r"no option \['iteration'\]; it has .*'iterations'"),
    (dict(type='adaround', metric='fisher'), "unit='layer' knows the squared error only, got metric='fisher'"),
    (dict(type='qdrop', drop=1.0), r'drop must be in \[0, 1\), got 1.0'),
    (dict(type='qdrop', rounding='nearest'), "rounding must be one of .*'adaround'.*, got 'nearest'"),
    (dict(type='qdrop', iterations=0), 'iterations must be a positive integer, got 0'),
    (dict(type='qdrop', preset='fast', images=4), 'at least 4 calibration images and gets 3'),
    ([{'type': 'fit_activations'}, {'type': 'reconstruct', 'speed': 3}], r"'reconstruct' has no option \['speed'\]"),
    ([{'type': 'fit_activations'}, {'type': 'reconstruct', 'unit': 'model'}], "unit must be one of .* got 'model'"),
    ([{'type': 'fit_activations'}, {'type': 'fit_weights'}, {'type': 'reconstruct'}], 'needs exactly one of the steps'),
]  # fmt: skip


@pytest.mark.parametrize(('recipe', 'message'), BAD)
def test_bad_options_are_named_before_the_model_is_touched(recipe: dict | list, message: str) -> None:
    model, task = make_classifier()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        erq_mm.quantize_(model, task, recipe)
    assert before.keys() == model.state_dict().keys()


@pytest.mark.parametrize(('name', 'need'), [('brecq', 'loss'), ('aphq', 'predictions'), ('pd_quant', 'predictions')])
def test_what_a_plain_function_cannot_give_is_named(name: str, need: str) -> None:
    model, _ = make_classifier()
    with pytest.raises(ValueError, match=f"recipe '{name}' needs the {need} of the model, and FunctionTask gives none"):
        erq_mm.quantize_(model, lambda m: pytest.fail('calibration ran'), small(name))
