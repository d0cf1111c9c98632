"""The step `sequential`: rows of both models, streams and weights of a block, what has no rows, and the whole of it."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.sequential.block import BlockRows
from erq_mm.calibration.sequential.options import SequentialOptions
from erq_mm.calibration.sequential.rows import choose_rows, pick_rows, row_count
from erq_mm.calibration.sequential.streams import Streams
from erq_mm.calibration.steps.fit_activations import fit_activations
from erq_mm.calibration.steps.sequential import sequential
from erq_mm.nn.layers import QuantLayer

from ...nn.swin import make_swin
from ..swin_classifier import make_classifier


def mlp() -> nn.Sequential:
    layers = [nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 4)]
    return nn.Sequential(*layers).eval()


def batches(count: int = 4, rows: int = 100) -> list[Tensor]:
    return [torch.randn(rows, 8) * torch.linspace(0.1, 4, 8) for _ in range(count)]


def error_of(model: nn.Module, quantized: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted, found = (m(x) for m in (model, quantized))
        if isinstance(wanted, (list, tuple)):  # the stages of a backbone
            wanted, found = wanted[-1], found[-1]
        return float((found - wanted).square().sum() / wanted.square().sum())


def test_beats_the_parallel_recipes_on_rows_that_did_not_calibrate() -> None:
    model, task, test = mlp(), erq_mm.ClassifierTask(batches()), torch.cat(batches(5))
    errors = {}
    for recipe in ('repq', 'erq', 'serq'):
        quantized = copy.deepcopy(model)
        erq_mm.quantize_(quantized, task, recipe, 3, 4)
        errors[recipe] = error_of(model, quantized, test)
    assert errors['serq'] < 0.8 * errors['erq'] < errors['repq']


def test_eight_bits_keep_the_function() -> None:
    """Folding, absorbing and changed inputs of stopped forwards: a fault in any of them would be far above rounding."""
    model, task = mlp(), erq_mm.ClassifierTask(batches())
    quantized = copy.deepcopy(model)
    report = erq_mm.quantize_(quantized, task, 'serq', 8, 8)
    assert error_of(model, quantized, torch.cat(batches(2))) < 2e-3
    for layer in report.layers:
        assert layer.output_mse['correction'] <= layer.output_mse['activation'] * (1 + 1e-4)


@pytest.mark.parametrize('scope', ['linears', 'all'])
def test_eight_bits_keep_the_function_of_a_swin(scope: str) -> None:
    model, task = make_classifier()
    quantized = copy.deepcopy(model)
    erq_mm.quantize_(quantized, task, 'serq', 8, 8, scope)
    assert error_of(model, quantized, task.batches[0]) < 5e-3
    layers = [module for module in quantized.modules() if isinstance(module, QuantLayer)]
    assert all(layer.has_quantized_weight and layer.input_quantizer.is_active for layer in layers)


@pytest.mark.parametrize('name', ['swin_tiny_patch4_window7_224', 'deit_tiny_patch16_224'])
def test_eight_bits_keep_the_function_of_a_classifier_of_timm(name: str) -> None:
    """timm's Swin pads and shifts windows in the block itself, which is also where forwards stop."""
    timm = pytest.importorskip('timm', reason='timm is not installed')
    small = {'embed_dim': 24, 'num_heads': (2, 4), 'depths': (2, 2), 'window_size': 4} if 'swin' in name else {}
    small = small or {'embed_dim': 24, 'num_heads': 2, 'depth': 2}
    model = timm.create_model(name, img_size=72 if 'swin' in name else 64, num_classes=5, **small).eval()
    task = erq_mm.ClassifierTask([torch.randn(2, 3, model.patch_embed.img_size[0], model.patch_embed.img_size[1])] * 2)
    quantized = copy.deepcopy(model)
    erq_mm.quantize_(quantized, task, 'serq', 8, 8)
    features = [m.forward_features(task.batches[0]).detach() for m in (model, quantized)]
    assert float((features[1] - features[0]).square().sum() / features[0].square().sum()) < 5e-3


def calibration_of(model: nn.Module, task: erq_mm.CalibrationTask):
    plan = plan_quantization(model, resolve_recipe('serq'), 4, 4, 'linears', {})
    return swap_for_calibration(model, plan, task, 0, None)


@pytest.mark.parametrize('block', ['stages.0.blocks.0', 'stages.0.blocks.1', 'stages.1.blocks.0'])
def test_streams_of_a_block_lie_in_the_order_of_the_rows(block: str) -> None:
    """What the next LayerNorm sees is the stream plus the layer's output, in windows, shifted and padded or not."""
    model = make_swin()
    task = erq_mm.ClassifierTask([torch.randn(1, 3, 60, 52)])
    task.forward = lambda m, i: m(task.batches[i])
    calibration = calibration_of(model, task)
    reference = copy.deepcopy(model)
    streams, floats = (Streams(m, task, [[0]], [block]) for m in (model, reference))
    with torch.no_grad():
        streams.start()
        floats.start()
        stop = streams.stops[0]
        states = [state for state in calibration.sites if state.site.block == block]
        rows = BlockRows(model, reference, block, states, [stop], floats.advance, 10**6, 0)
        seen = {}
        norm2 = model.get_submodule(f'{block}.norm2')
        handle = norm2.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
        out = model.get_submodule(block)(*stop.args, **stop.keywords)
        handle.remove()
        streams.close()
        floats.close()
        proj, last = (next(s for s in states if s.name.endswith(name)) for name in ('proj', 'ffn.layers.1'))
        windows = model.get_submodule(proj.site.windows)
        kept = rows._float[0]
        found = kept[proj.name].stream + nn.functional.linear(kept[proj.name].x, proj.layer.weight, proj.layer.bias)
        after = windows.arrange(seen['x'], torch.full((seen['x'].shape[-1],), torch.nan), stop.args[1])
        after = after.reshape(found.shape)
        is_real = ~after.isnan().any(1)
        torch.testing.assert_close(found[is_real], after[is_real], rtol=1e-4, atol=1e-4)
        assert not kept[proj.name].weights[~is_real].any()
        found = kept[last.name].stream + nn.functional.linear(kept[last.name].x, last.layer.weight, last.layer.bias)
        torch.testing.assert_close(found, out.reshape(found.shape), rtol=1e-4, atol=1e-4)
    real_mean = kept[proj.name].weights.mean()
    assert float(real_mean) == pytest.approx(1, rel=1e-4)


def test_no_stream_error_while_nothing_is_quantized() -> None:
    model, task = make_classifier()
    calibration = calibration_of(model, task)
    block = 'backbone.stages.0.blocks.1'
    reference = copy.deepcopy(model)
    streams, floats = (Streams(m, task, [[0]], [block]) for m in (model, reference))
    with torch.no_grad():
        streams.start()
        floats.start()
        states = [state for state in calibration.sites if state.site.block == block]
        rows = BlockRows(model, reference, block, states, [streams.stops[0]], floats.advance, 50, 0)
        for state in states:
            for part in rows.rows(state) if state.has_weight else []:
                assert torch.equal(part.x, part.x_q)
                assert part.stream_error is None or not part.stream_error.any()
                assert len(part.x) <= 50
    streams.close()
    floats.close()


def test_layers_called_several_times_are_fitted_together_at_the_end() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.shared(self.shared(self.first(x)).relu()))

    model = Shared().eval()
    quantized = copy.deepcopy(model)
    report = erq_mm.quantize_(quantized, erq_mm.ClassifierTask(batches(2)), 'serq', 6, 6)
    assert error_of(model, quantized, torch.cat(batches(2))) < 0.05
    assert {layer.name: layer.rows for layer in report.layers} == {'first': 200, 'shared': 400, 'last': 200}


@pytest.mark.parametrize('calls', [(1, 1), (1, 2), (2, 2)])
def test_layers_behind_one_norm_are_folded_together(calls: tuple[int, int]) -> None:
    """Stopped at or fitted at the end: the targets are those of weights into which nothing was folded."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return sum(self.a(y) for _ in range(calls[0])) - 0.5 * sum(self.b(y) for _ in range(calls[1]))

    model, task = Two().eval(), erq_mm.ClassifierTask(batches(2))
    model.norm.weight.data *= torch.linspace(0.1, 5, 8)
    quantized, recipe = copy.deepcopy(model), resolve_recipe('serq')
    plan = plan_quantization(quantized, recipe, 8, 8, 'linears', {})
    plan.sites = [replace(site, norm='norm') for site in plan.sites]
    plan.input_specs = dict.fromkeys(plan.input_specs, (recipe.input_spec('post_norm', 8),))
    calibration = swap_for_calibration(quantized, plan, task, 0, None)
    fit_activations(calibration)
    sequential(calibration)
    assert error_of(model, quantized, torch.cat(batches(2))) < 2e-3


def test_a_plain_function_of_several_forwards() -> None:
    model, data = mlp(), batches(3)
    quantized = copy.deepcopy(model)
    erq_mm.quantize_(quantized, lambda m: [m(x) for x in data], 'serq', 6, 6)
    assert error_of(model, quantized, torch.cat(batches(2))) < 0.05


def test_layers_that_no_row_reaches_are_rounded_and_keep_a_float_input() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Idle().eval()
    erq_mm.quantize_(model, erq_mm.ClassifierTask(batches(2)), 'serq', 4, 4, full_account=False)
    assert model.idle.has_quantized_weight and not model.idle.input_quantizer.is_active


@pytest.mark.parametrize(
    'make',
    [lambda: batches(1, 1), lambda: [torch.zeros(5, 8)], lambda: [torch.full((5, 8), 3.0)], lambda: batches(2, 3)],
)
def test_one_row_zeros_constants_and_few_rows(make: Callable[[], list[Tensor]]) -> None:
    model = mlp()
    erq_mm.quantize_(model, erq_mm.ClassifierTask(make()), 'serq', 4, 4)
    assert torch.isfinite(model(torch.randn(10, 8))).all()


def test_published_grids_are_those_of_repq() -> None:
    own, repq = resolve_recipe({'type': 'serq', 'grids': 'published'}), resolve_recipe('repq')
    assert own.activations == repq.activations and own.weight == repq.weight
    model, other = mlp(), mlp()
    other.load_state_dict(model.state_dict())
    task = erq_mm.ClassifierTask(batches())
    erq_mm.quantize_(model, task, {'type': 'serq', 'grids': 'published'}, 8, 4)
    erq_mm.quantize_(other, task, 'repq', 8, 4)
    for name in ('0', '3'):  # the first input, and the one behind the LayerNorm: the same rows, hence the same grids
        found, wanted = (m.get_submodule(name).input_quantizer for m in (model, other))
        assert float(found.scale) == pytest.approx(float(wanted.scale), rel=1e-5)


@pytest.mark.parametrize(
    'option',
    [
        {'rows': 0},
        {'damping': -1.0},
        {'margin': 0},
        {'rows': True},
        {'mixed_regions': -1},
        {'reach': 1.5},
        {'reach': -1},
    ],
)
def test_bad_options_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f'sequential {next(iter(option))}'):
        SequentialOptions(**option)
    with pytest.raises(ValueError, match='no option'):
        resolve_recipe({'type': 'serq', 'dampening': 1})
    with pytest.raises(ValueError, match="balance=True needs grids='own'"):
        resolve_recipe({'type': 'serq', 'grids': 'published', 'balance': True})
    with pytest.raises(ValueError, match='grids'):
        resolve_recipe({'type': 'serq', 'grids': 'mine'})


def seldom_large(peak: float) -> Tensor:
    """Return inputs whose first column is large throughout and whose second one is, once in a hundred rows."""
    x = torch.rand(200, 2) * torch.tensor([20.0, 1.0])
    x[::100, 1] = peak
    return x


@pytest.mark.parametrize('bits', [6, 7, 8])
def test_from_seven_bits_on_no_channel_clips_what_another_image_shows(bits: int) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 3)).eval()
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    task, test, errors = erq_mm.ClassifierTask([seldom_large(4.0) for _ in range(8)]), seldom_large(9.0), {}
    for reach in (0.0, SequentialOptions.reach):
        quantized = copy.deepcopy(model)
        erq_mm.quantize_(quantized, task, {'type': 'serq', 'reach': reach}, 8, bits)
        errors[reach] = error_of(model, quantized, test)
    alone, common = errors.values()
    assert common == alone if bits == 6 else common < 0.5 * alone


def test_damping_follows_rows_per_column() -> None:
    options = SequentialOptions()
    assert options.share(10_000, 96) == pytest.approx(0.001)
    assert options.share(1000, 1000) == pytest.approx(0.1)
    assert options.share(5, 1000) == 10
    assert SequentialOptions(damping=0.2).share(5, 1000) == 0.2
    assert SequentialOptions(correct=False).share(5, 1000) == options.code_damping


def test_rows_are_those_of_im2col_at_the_chosen_places() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()).eval()
    plan = plan_quantization(model, resolve_recipe('rtn'), 4, 4, 'all', {})
    layer = swap_for_calibration(model, plan, lambda m: None, 0, None).layers()[0].layer
    inputs = [torch.randn(2, 3, 9, 7), torch.randn(1, 3, 5, 5)]
    every = torch.cat([chunk for x in inputs for chunk in layer.rows(x)])
    assert sum(row_count(layer, x) for x in inputs) == len(every) == 2 * 5 * 4 + 9
    chosen = choose_rows(len(every), 11, seed=3)
    assert len(chosen) == 11 and torch.equal(chosen, chosen.unique())
    assert torch.equal(pick_rows(layer, inputs, chosen), every[chosen])
    assert torch.equal(choose_rows(4, 11, seed=3), torch.arange(4))


def test_balanced_channels_keep_the_function_where_widths_differ_much() -> None:
    """Wide channels of keys and values: at 8 bits nothing but rounding is left, and at 4 bits balance helps."""
    model, task = make_classifier()
    names = [name for name, module in model.named_modules() if type(module).__name__ == 'WindowMSA']
    with torch.no_grad():
        for name in names:
            attention = model.get_submodule(name)
            channels = attention.proj.in_features
            wide = torch.logspace(1.2, -1.2, channels)[torch.randperm(channels)]
            for values in (attention.qkv.weight, attention.qkv.bias):
                values[:channels] /= wide.view(-1, *[1] * (values.dim() - 1))
                values[channels : 2 * channels] *= wide.view(-1, *[1] * (values.dim() - 1))
                values[2 * channels :] *= wide.view(-1, *[1] * (values.dim() - 1))
            attention.proj.weight /= wide
    errors = {}
    for bits, balance in ((8, True), (8, False), (4, True), (4, False)):
        quantized = copy.deepcopy(model)
        erq_mm.quantize_(quantized, task, {'type': 'serq', 'balance': balance}, bits, bits)
        errors[bits, balance] = error_of(model.backbone, quantized.backbone, task.batches[0])
    assert errors[8, True] < 5e-3
    assert errors[8, True] < 0.8 * errors[8, False]
    assert errors[4, True] < 0.8 * errors[4, False]


def test_nothing_is_balanced_on_the_published_grids() -> None:
    options = resolve_recipe({'type': 'serq', 'grids': 'published'}).steps[-1]
    assert options['balance'] is False and SequentialOptions().balance
