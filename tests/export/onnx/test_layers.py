"""A layer's graph computes what its simulation does, in every engine, whatever the grid."""

import copy

import pytest
import torch
from torch import nn

from erq_mm.calibration.sequential.channel_grids import search_input_grid
from erq_mm.core.histogram import Histogram
from erq_mm.core.pixel_levels import PixelLevels
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.reparameterization import absorb_, reparameterize
from erq_mm.core.scale_search import affine_parameters
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest
from erq_mm.export.backends import prove
from erq_mm.export.onnx.graph import GraphBuilder
from erq_mm.export.onnx.layers import LayerWriter
from erq_mm.nn.layers import QuantConv2d, QuantLinear

from .conftest import graph_of, onnx, quantized_layer, without_products  # noqa: F401

SPEC = QuantSpec(4, 'row')
ROWS = (torch.randn(64, 48, generator=torch.Generator().manual_seed(1)) * 2 + 0.5).clamp(-3, 4)


@pytest.mark.parametrize('a_bits', [3, 4, 6, 7, 8])
def test_linear_is_its_simulation_beyond_the_range_too(engine, a_bits: int) -> None:
    """Inputs reach 3 times beyond the grid: below 8 bits only the Clip keeps codes within it."""
    layer = quantized_layer(nn.Linear(48, 40), ROWS, 4, a_bits)
    model, account = graph_of(layer, ('rows', 48))
    x = 3 * ROWS
    torch.testing.assert_close(engine.load(model, 1).run([x])[0], layer(x).detach(), rtol=1e-5, atol=1e-5)
    assert account.layers[0].runs_as == 'integer' and account.layers[0].a_bits == a_bits


@pytest.mark.parametrize('a_bits', [4, 8])
def test_a_grid_per_channel_stands_behind_its_change_of_variables(engine, a_bits: int) -> None:
    """An integer product of one scale, also where the channels' ranges differ by 300 times."""
    linear, gains = nn.Linear(48, 40), torch.logspace(-1, 1.5, 48)
    x = ROWS * gains
    scale, zero_point = affine_parameters(x.amin(0).double(), x.amax(0).double(), 2**a_bits - 1)
    change = reparameterize(scale, zero_point, 2**a_bits - 1)
    layer = QuantLinear(linear, QuantSpec(4, 'row'), QuantSpec(a_bits, grid='channel_uniform'))
    absorb_(layer.weight.data, layer.bias.data, change)
    layer.input_quantizer.change_(change)
    layer.input_quantizer.is_active = True
    layer.install_(round_to_nearest(layer.weight_matrix(), layer.bias, fit_weight_grid(layer.weight_matrix(), SPEC)))
    model, account = graph_of(layer, ('rows', 48))
    found = engine.load(model, 1).run([x])[0]
    close = torch.isclose(found, layer(x).detach(), rtol=1e-4, atol=1e-3).all(1)
    assert (~close).sum() <= 2  # a value on a rounding boundary may go either way
    assert account.layers[0].runs_as == 'integer'


@pytest.mark.parametrize('a_bits', [2, 4, 5])
def test_a_table_of_levels_is_looked_up_and_the_product_one_of_integers(engine, a_bits: int) -> None:
    """On the finer grid of 8 bits: 4 bits of weights and 8 of inputs fit what CPUs without VNNI add, too."""
    x = ROWS * torch.logspace(-1, 1.5, 48)
    layer = QuantLinear(nn.Linear(48, 40), QuantSpec(4, 'row'), QuantSpec(a_bits, grid='channel_levels'))
    search_input_grid([layer], x, torch.ones(len(x)), layer.input_quantizer.spec, 1.0).fold_into_(layer)
    layer.input_quantizer.is_active = True
    layer.install_(round_to_nearest(layer.weight_matrix(), layer.bias, fit_weight_grid(layer.weight_matrix(), SPEC)))
    model, account = graph_of(layer, ('rows', 48))
    found = engine.load(model, 1).run([3 * x])[0]
    close = torch.isclose(found, layer(3 * x).detach(), rtol=1e-4, atol=1e-3).all(1)
    assert (~close).sum() <= 2  # a value on a rounding boundary may go either way
    assert account.layers[0].runs_as == 'integer' and account.layers[0].a_bits == a_bits


def test_convolution_pads_with_the_level_of_zero(engine) -> None:
    x = (torch.randn(2, 16, 9, 11) + 1) * torch.logspace(-1, 1, 16)[:, None, None]
    layer = QuantConv2d(nn.Conv2d(16, 24, 3, padding=1), SPEC, QuantSpec(3, grid='channel_levels'))
    rows = torch.cat(list(layer.rows(x)))
    search_input_grid([layer], rows, torch.ones(len(rows)), layer.input_quantizer.spec, 1.1).fold_into_(layer)
    layer.input_quantizer.is_active = True
    layer.install_(round_to_nearest(layer.weight_matrix(), layer.bias, fit_weight_grid(layer.weight_matrix(), SPEC)))
    model, account = graph_of(layer, ('n', 16, 'h', 'w'))
    found, wanted = engine.load(model, 1).run([x])[0], layer(x).detach()
    off = ~torch.isclose(found, wanted, rtol=1e-4, atol=1e-3)
    assert float(off.float().mean()) < 0.02  # a value on a rounding boundary may go either way, and has 9 neighbours
    assert account.layers[0].runs_as == 'integer'


def test_without_its_clip_a_4_bit_input_would_be_wrong() -> None:
    runtime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    layer = quantized_layer(nn.Linear(48, 40), ROWS, 4, 4)
    model, _ = graph_of(layer, ('rows', 48))
    (clip,) = (node for node in model.graph.node if node.op_type == 'Clip')
    quantize = next(node for node in model.graph.node if node.op_type == 'QuantizeLinear')
    quantize.input[0] = clip.input[0]
    session = runtime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    (y,) = session.run(None, {'x': (3 * ROWS).numpy()})
    assert (torch.from_numpy(y) - layer(3 * ROWS)).abs().max() > 1


@pytest.mark.parametrize('w_bits', [2, 4, 7])
def test_asymmetric_rows_up_to_7_bits_are_exact_int8(engine, w_bits: int) -> None:
    """Rows of one sign have their zero point at an end: code - zero_point still fits."""
    linear = nn.Linear(48, 40)
    with torch.no_grad():
        linear.weight[:20].abs_().add_(0.05)
    layer = quantized_layer(linear, ROWS, w_bits)
    model, _ = graph_of(layer, ('rows', 48))
    torch.testing.assert_close(engine.load(model, 1).run([ROWS])[0], layer(ROWS).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('padding, stride', [(1, 1), (0, 2), (2, 1)])
def test_convolution_pads_with_the_code_of_zero(engine, padding: int, stride: int) -> None:
    x = torch.randn(2, 16, 9, 11) + 1
    layer = quantized_layer(nn.Conv2d(16, 24, 3, stride, padding), x)
    assert layer.input_quantizer.numbers['zero_point'] > 0
    model, _ = graph_of(layer, ('n', 16, 'h', 'w'))
    torch.testing.assert_close(engine.load(model, 1).run([x])[0], layer(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('lowest', [-127, -128])
def test_batch_norm_of_both_signs_goes_into_the_convolution(engine, lowest: int) -> None:
    """-128 has no counterpart: then the norm stays an operator."""
    x, norm = torch.rand(2, 16, 7, 7), nn.BatchNorm2d(24).eval()
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.normal_(), norm.bias.normal_()
    layer = quantized_layer(nn.Conv2d(16, 24, 3, padding=1), x, 8, 6, grid='symmetric')
    with torch.no_grad():
        codes = (layer.weight / layer.weight_scale.view(-1, 1, 1, 1)).round().clamp(-127)
        codes[0, 0, 0, 0], norm.weight[0] = lowest, -1.5
        layer.weight.copy_(codes * layer.weight_scale.view(-1, 1, 1, 1))
    model, _ = graph_of(layer, ('n', 16, 'h', 'w'), norm, relu=True)
    assert ('Mul' in {node.op_type for node in model.graph.node}) == (lowest == -128)
    with torch.no_grad():
        expected = norm(layer(x)).relu()
    torch.testing.assert_close(engine.load(model, 1).run([x])[0], expected, rtol=1e-4, atol=1e-4)


def test_non_integer_zero_point_is_simulated_in_float(engine) -> None:
    layer = quantized_layer(nn.Linear(48, 40), ROWS)
    layer.input_quantizer.set_parameters(layer.input_quantizer.numbers['scale'], 100.4)
    model, account = graph_of(layer, ('rows', 48))
    assert account.layers[0].runs_as == 'float' and 'zero point 100.4' in account.layers[0].reason
    torch.testing.assert_close(engine.load(model, 1).run([ROWS])[0], layer(ROWS).detach(), rtol=1e-5, atol=1e-5)


def test_exact_pixels_are_simulated_in_float(engine) -> None:
    """To the ends of the grid and beyond, with padding; the convolution itself is float, and the account says so."""
    levels = PixelLevels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    x = torch.nn.functional.pad(torch.randn(2, 3, 9, 11) * 3, (0, 1, 0, 3))
    layer = quantized_layer(nn.Conv2d(3, 24, 4, 4), x)
    layer.input_quantizer = build_quantizer(QuantSpec(8, grid='pixels'), 3)
    layer.input_quantizer.set_levels(levels)
    layer.input_quantizer.fit(Histogram(1))
    layer.input_quantizer.is_active = True
    model, account = graph_of(layer, ('n', 3, 'h', 'w'))
    assert account.layers[0].runs_as == 'float'
    assert account.layers[0].reason == "input grid 'pixels': no kernel has it"
    torch.testing.assert_close(engine.load(model, 1).run([x])[0], layer(x).detach(), rtol=1e-5, atol=1e-5)
    float_input = torch.nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride)
    assert (layer(x) - float_input).abs().max() > 1e-2  # it makes a difference


def test_weight_beside_its_grid_is_refused() -> None:
    layer = quantized_layer(nn.Linear(48, 40), ROWS)
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight[3, 4] += 0.3 * changed.weight_scale[3, 0]
    with pytest.raises(ValueError, match='0.3 steps beside its grid'):
        graph_of(changed, ('rows', 48))


@pytest.mark.parametrize('a_bits, lowest', [(8, 0.0), (4, 0.0), (8, -0.5), (4, -0.5)])
def test_convolution_gives_the_codes_of_the_next_one(engine, a_bits: int, lowest: float) -> None:
    """Behind a ReLU, at grids that begin at zero and below it; the bias lies on the steps of the sums."""
    x = torch.rand(1, 8, 9, 9) + 0.1
    first = quantized_layer(nn.Conv2d(8, 16, 3, padding=1), x, 4, a_bits)
    with torch.no_grad():
        step = first.weight_scale[:, 0] * first.input_quantizer.numbers['scale']
        first.bias.copy_((first.bias / step).round() * step)
        hidden = first(x).relu()
    second = quantized_layer(nn.Conv2d(16, 8, 3), torch.tensor([lowest, hidden.max()]), 4, a_bits)
    graph = GraphBuilder('chain')
    writer = LayerWriter(graph, {first: 'first', second: 'second'})
    y = writer.conv(second, graph.add('Relu', writer.conv(first, graph.input('x', (1, 8, 'h', 'w')))))
    graph.output(y, 'y', (1, 8, None, None))
    session = engine.load(graph.model(), 1)
    torch.testing.assert_close(session.run([x])[0], second(hidden).detach(), rtol=1e-4, atol=1e-4)
    kernels = [proof.kernels[0] for proof in prove(session, writer.account)]
    assert engine.name == 'openvino' or kernels == ['QLinearConv', 'MatMulIntegerToFloat']


def test_layer_that_ends_the_graph_is_found(engine) -> None:
    """Without a bias to add, engines give its node the output's name."""
    layer = quantized_layer(nn.Linear(48, 40), ROWS)
    nn.init.zeros_(layer.bias)
    model, account = graph_of(layer, ('rows', 48))
    (proof,) = prove(engine.load(model, 1), account)
    assert proof.is_integer and proof.kernels != ('not found',)
