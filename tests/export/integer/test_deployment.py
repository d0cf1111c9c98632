"""What `deploy_` replaces, what it leaves simulated and says so, and what it refuses."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.core.spec import QuantSpec
from erq_mm.export.integer import IntegerLinear, operators, rows, self_test
from erq_mm.nn import QuantLinear, QuantMatMul

from .layers import quantized


def small_model(**options: object) -> nn.Sequential:
    return nn.Sequential(
        quantized(nn.Conv2d(3, 8, 3, padding=1), **options), nn.ReLU(), nn.Flatten(), quantized(nn.Linear(8 * 30, 5))
    ).eval()


def wide(layer: nn.Linear) -> QuantLinear:
    """8-bit asymmetric rows far off centre: codes minus zero points beyond int8."""
    with torch.no_grad():
        layer.weight.copy_(torch.rand_like(layer.weight) + 0.1)
    return quantized(layer, w_bits=8)


@torch.no_grad()
def test_deployed_model_is_the_simulated_one() -> None:
    model, x = small_model(), torch.randn(4, 3, 5, 6)
    expected = model(x)
    result = erq_mm.deploy_(model)
    assert result.integer == ['0', '3'] and not result.simulated
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert str(result) == '2 of 2 quantized layers and products run as integers'
    with pytest.raises(ValueError, match='runs as integers already .2 layers, e.g. 0.'):
        erq_mm.deploy_(model)
    with pytest.raises(ValueError, match='quantized already .2 layers, e.g. 0.; quantize a freshly loaded float model'):
        erq_mm.quantize_(model, lambda m: m(x), 'rtn')


def test_needs_no_mm_package() -> None:
    code = 'import sys, erq_mm.export.integer; print({"mmengine", "mmcv", "mmdet"} & set(sys.modules))'
    assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == 'set()'


def test_asymmetric_8_bit_rows_are_refused_before_anything_changes_or_stay_simulated() -> None:
    model = nn.Sequential(quantized(nn.Linear(6, 6)), wide(nn.Linear(6, 4)), wide(nn.Linear(4, 3)))
    x, before = torch.randn(2, 6), list(model)
    expected = model(x)
    with pytest.raises(
        ValueError, match=r'2 layers .* do not fit int8: 1, 2; of 1, .* from \d+ to 2\d\d, .*deploy=True'
    ):
        erq_mm.deploy_(model)
    assert list(model) == before
    result = erq_mm.deploy_(model, wide_weights='simulate')
    assert result.integer == ['0'] and set(result.simulated) == {'1', '2'}
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="wide_weights must be one of .* got 'clip'"):
        erq_mm.deploy_(model, wide_weights='clip')


def unfit_layers() -> list[tuple[nn.Module, str]]:
    dual = quantized(nn.Linear(6, 4), grid='dual_uniform')
    off_grid, inactive = quantized(nn.Linear(6, 4)), quantized(nn.Linear(6, 4))
    with torch.no_grad():
        off_grid.weight[0, 0] += off_grid.weight_scale[0, 0] / 2
    inactive.input_quantizer.is_active = False
    log = QuantLinear(nn.Linear(6, 4), QuantSpec(4, 'row'), QuantSpec(4, grid='log_sqrt2'))
    return [
        (dual, 'two scales per row'),
        (off_grid, 'does not lie on its grid'),
        (inactive, 'input is float'),
        (log, "grid 'log_sqrt2', kernels have uniform ones"),
        (quantized(nn.Linear(6, 4), zero_point=3.5), 'zero point of its input, 3.5, is no integer'),
        (quantized(nn.Linear(6, 4), zero_point=-2), r'zero point of its input, -2, is not in 0..255'),
        (quantized(nn.Linear(6, 4), zero_point=300), r'zero point of its input, 300, is not in 0..255'),
    ]


@pytest.mark.parametrize('index', range(7))
def test_what_kernels_cannot_do_stays_simulated_and_is_named(index: int) -> None:
    layer, reason = unfit_layers()[index]
    result = erq_mm.deploy_(nn.Sequential(layer, quantized(nn.Linear(4, 2))))
    assert result.integer == ['1']
    assert reason in result.simulated['0']
    assert f'simulated: 0: {result.simulated["0"]}' in str(result)


def test_missing_operators_leave_everything_simulated(monkeypatch) -> None:
    monkeypatch.setattr(operators, 'NAMES', (*operators.NAMES, 'qlinear_of_tomorrow'))
    model = small_model()
    before = list(model)
    result = erq_mm.deploy_(model)
    assert not result.integer and list(model) == before
    assert 'lacks the operators onednn::qlinear_of_tomorrow' in result.simulated['0']


def fail(*_: object) -> torch.Tensor:
    raise RuntimeError('could not create a primitive descriptor')


@pytest.mark.parametrize(
    ('broken', 'reason'),
    [
        (fail, 'RuntimeError: could not create a primitive descriptor'),
        (lambda *arguments: operators_linear(*arguments) * 1.001, 'differs from its simulation by'),
        (lambda *arguments: operators_linear(*arguments) * float('nan'), 'differs from its simulation by nan'),
    ],
)
def test_an_operator_that_fails_or_differs_leaves_its_layers_simulated(broken, reason: str, monkeypatch) -> None:
    monkeypatch.setattr(operators, 'linear', broken)
    result = erq_mm.deploy_(small_model())
    assert result.integer == ['0'] and reason in result.simulated['3']


operators_linear = operators.linear


def saturating(codes, grid, packed, scale, zero_points, bias) -> torch.Tensor:
    """What AVX2 without VNNI computes: pairs of products are added in 16 bits."""
    pairs = codes.view(len(codes), 1, -1, 2).int() * packed.view(len(packed), -1, 2).int()
    sums = pairs.sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1)
    correction = grid.zero_point * packed.sum(1)
    return (sums - correction) * (grid.scale * scale) + (0 if bias is None else bias)


@pytest.mark.parametrize(('w_bits', 'fits'), [(4, True), (7, True), (8, False)])
def test_16_bit_sums_are_found_out(w_bits: int, fits: bool, monkeypatch) -> None:
    """Symmetric weights of 7 bits reach -64: 2 * 64 * 255 = 32640 fits."""
    monkeypatch.setattr(operators, 'linear', saturating)
    monkeypatch.setattr(operators, 'pack_linear', lambda weight: weight.codes)
    monkeypatch.setattr(operators, 'sums_saturate', operators.sums_saturate.__wrapped__)
    assert operators.sums_saturate()
    layer = quantized(nn.Linear(64, 16), w_bits, grid='symmetric')
    result = erq_mm.deploy_(nn.Sequential(layer))
    assert bool(result.integer) is fits
    if not fits:
        assert 'no VNNI' in result.simulated['0'] and 'Weights of 7 bits with deploy=True' in result.simulated['0']
        monkeypatch.setattr(operators, 'sums_saturate', lambda: False)  # the comparison alone finds it as well
        result = erq_mm.deploy_(nn.Sequential(layer))
        assert 'differs from its simulation' in result.simulated['0']


def test_largest_pair_by_hand() -> None:
    """Row 1: 5 + 3, or -9 - 1 whatever lies between; row 2: 7 alone, as the others have the other sign."""
    codes = torch.tensor([[5, -9, 3, -1], [7, -1, -1, 0]], dtype=torch.int8)
    assert operators.largest_pair(codes, 15) == 10 * 15
    assert operators.largest_pair(codes[1:], 15) == 7 * 15
    assert operators.largest_pair(codes[1:, :1], 15) == 7 * 15


def test_products_of_activations_are_named_if_they_are_simulated() -> None:
    product, float_product = (QuantMatMul(QuantSpec(8), QuantSpec(8)) for _ in range(2))
    for quantizer in (product.left_quantizer, product.right_quantizer):
        quantizer.set_parameters(0.1, 128)
        quantizer.is_active = True
    result = erq_mm.deploy_(nn.ModuleList([quantized(nn.Linear(3, 2)), product, float_product]))
    assert list(result.simulated) == ['1'] and 'product of two activations' in result.simulated['1']


def test_refusals() -> None:
    with pytest.raises(ValueError, match='Sequential has no quantized layer: quantize it first'):
        erq_mm.deploy_(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match='itself a single layer'):
        erq_mm.deploy_(quantized(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match=r'0.weight is on meta; call model.cpu\(\) first'):
        erq_mm.deploy_(nn.Sequential(quantized(nn.Linear(3, 2)).to('meta')))
    with pytest.raises(ValueError, match='0.weight is torch.float64'):
        erq_mm.deploy_(nn.Sequential(quantized(nn.Linear(3, 2)).double()))


def test_a_layer_in_two_places_is_replaced_in_both_and_hooks_stay() -> None:
    layer, seen = quantized(nn.Linear(4, 4)), []
    model = nn.ModuleDict({'a': layer, 'b': nn.Sequential(layer)})
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    erq_mm.deploy_(model)
    assert model['a'] is model['b'][0] and isinstance(model['a'], IntegerLinear)
    model['a'](torch.zeros(1, 4))
    handle.remove()
    model['a'](torch.zeros(1, 4))
    assert seen == [1]


def feed_forward() -> nn.Sequential:
    """The layers of mmcv's FFN."""
    hidden = nn.Sequential(quantized(nn.Linear(6, 24)), nn.GELU(), nn.Dropout(0.1))
    return nn.Sequential(hidden, quantized(nn.Linear(24, 6)), nn.Dropout(0.1))


@torch.no_grad()
@pytest.mark.parametrize('shape', [(2, 13, 6), (1, 6), (0, 6), (2, 0, 6), (6,)])
def test_feed_forward_network_runs_in_chunks_of_rows(shape: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr(rows, 'ROWS_PER_CHUNK', 4)
    model, x = nn.ModuleDict({'layers': feed_forward()}).eval(), torch.randn(shape)
    expected = model['layers'](x)
    result = erq_mm.deploy_(model)
    assert result.chunked == ['layers'] and result.integer == ['layers.0.0', 'layers.1']
    torch.testing.assert_close(model['layers'](x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('activation', [nn.GELU(), nn.ReLU()])
@pytest.mark.parametrize('a_bits', [3, 4, 8])
def test_activation_inside_the_kernel_gives_the_codes_of_the_next_layer(a_bits: int, activation: nn.Module) -> None:
    """Also clipped at the bits of the next layer; up to ties one code apart."""
    layers = nn.Sequential(quantized(nn.Linear(16, 32)), activation, quantized(nn.Linear(32, 8), a_bits=a_bits))
    model, x = nn.ModuleDict({'layers': layers}).eval(), torch.randn(200, 16) * 6
    expected = layers[2].input_quantizer(activation(layers[0](x)))
    erq_mm.deploy_(model)
    step, last = model['layers'].steps
    assert isinstance(step, rows.ActivatedLinear) and last is model['layers'][2]
    codes = step.codes(x)
    assert codes.max() == 2**a_bits - 1
    steps_apart = ((codes.float() - last.grid.zero_point) * last.grid.scale - expected).abs() / last.grid.scale
    assert steps_apart.max() < 1.001 and (steps_apart > 0.5).float().mean() < 1e-3


def test_an_activation_that_the_kernel_gets_wrong_stays_outside(monkeypatch) -> None:
    wrong = operators.activated_linear
    monkeypatch.setattr(operators, 'activated_linear', lambda *arguments: wrong(*arguments) // 2)
    model = nn.ModuleDict({'layers': feed_forward()}).eval()
    erq_mm.deploy_(model)
    assert [type(step) for step in model['layers'].steps] == [IntegerLinear, nn.GELU, IntegerLinear]
    tangent = nn.Sequential(quantized(nn.Linear(6, 8)), nn.GELU('tanh'), quantized(nn.Linear(8, 6)))
    model = nn.ModuleDict({'layers': tangent})
    erq_mm.deploy_(model)
    assert len(model['layers'].steps) == 3


def test_copies_of_a_chunked_sequence_work() -> None:
    model, x = nn.ModuleDict({'layers': feed_forward()}).eval(), torch.randn(9, 6)
    erq_mm.deploy_(model)
    copied = copy.deepcopy(model)
    assert torch.equal(copied['layers'](x), model['layers'](x))
    assert copied['layers'].steps[0].linear is copied['layers'][0][0]


def test_only_what_treats_rows_alone_runs_in_chunks() -> None:
    mixes = nn.Sequential(*feed_forward(), nn.Softmax(0))
    observed = feed_forward()
    observed.register_forward_hook(lambda *_: None)
    images = nn.Sequential(quantized(nn.Conv2d(3, 4, 1)), quantized(nn.Conv2d(4, 3, 1)))
    result = erq_mm.deploy_(nn.ModuleList([mixes, observed, images, nn.Sequential(quantized(nn.Linear(2, 2)))]))
    assert result.chunked == [] and len(result.integer) == 7


def test_self_test_covers_one_row_and_padding() -> None:
    conv = quantized(nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)))
    assert self_test._shape(conv, 37) == (2, 3, 9, 6)
    assert self_test._shape(quantized(nn.Linear(3, 2)), 1) == (1, 3)
