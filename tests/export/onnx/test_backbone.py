"""Swin as one graph: the model at any size, refusals, the account, and the proof in the optimized graph."""

import copy
import sys

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.export.backends import BACKENDS, cpu, prove
from erq_mm.export.backends import openvino as openvino_backend
from erq_mm.export.backends.rewriting import keep_float

from .conftest import Detector, onnx, quantized_layer, without_products  # noqa: F401

SIZES = [(64, 96), (56, 56), (57, 203), (31, 40)]  # even, whole windows, padded everywhere, smaller than two windows
FC1 = 'backbone.stages.0.blocks.0.ffn.layers.0.0'


def parts_of(model: nn.Module):
    from erq_mm.export.onnx import write_parts

    return write_parts(model)


@pytest.fixture(scope='module')
def partly_float(float_swin: nn.Module) -> nn.Module:
    model = copy.deepcopy(float_swin)
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 56, 56)), 'rtn', 4, 8, overrides={FC1: 'float'})
    return model


@torch.no_grad()
def test_float_graph_is_the_model_at_every_size(engine, float_swin: nn.Module) -> None:
    (part,), left = parts_of(float_swin)
    session = engine.load(part.model, 1)
    assert not left and session.precision == 'f32'
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        for ours, theirs in zip(session.run([x]), float_swin(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_quantized_graph_is_the_simulation_up_to_codes_at_ties(engine, quantized_swin: nn.Module) -> None:
    """A code that rounds the other way moves later ones: not equal, but 30 dB, where W4A8 itself is 12 dB away."""
    (part,), _ = parts_of(quantized_swin)
    session, simulated = engine.load(part.model, 1), without_products(quantized_swin)
    assert all(proof.is_integer for proof in prove(session, part.account))
    for size in SIZES[::2]:
        x = torch.randn(1, 3, *size)
        for ours, theirs in zip(session.run([x]), simulated(x), strict=True):
            assert (ours - theirs).square().sum() < 1e-3 * theirs.square().sum()


@torch.no_grad()
def test_graph_of_a_known_size_is_the_simulation_up_to_codes_at_ties(engine, quantized_swin: nn.Module) -> None:
    (part,), _ = parts_of(quantized_swin)
    session = engine.load(part.model, 1, sizes=dict(height=57, width=203))
    x = torch.randn(1, 3, 57, 203)
    for ours, theirs in zip(session.run([x]), without_products(quantized_swin)(x), strict=True):
        assert (ours - theirs).square().sum() < 1e-3 * theirs.square().sum()


def test_all_layers_of_a_swin_t_are_integer_at_a_known_size(engine) -> None:
    """Of first stages of 64 channels or fewer OpenVINO takes some layers for too small then, and runs them in float."""
    from mmdet.models.backbones.swin import SwinTransformer

    model = Detector(SwinTransformer(depths=(2, 2), num_heads=(3, 6), strides=(4, 2), out_indices=(0, 1))).eval()
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 56, 56)), {'type': 'rtn', 'deploy': True}, 8, 7)
    (part,), _ = parts_of(model)
    session = engine.load(part.model, 1, sizes=dict(height=56, width=56))
    assert not [proof for proof in prove(session, part.account) if not proof.is_integer]


def test_account_names_what_became_float(quantized_swin: nn.Module) -> None:
    (part,), _ = parts_of(quantized_swin)
    assert len(part.account.integer_layers) == 18 and not part.account.float_layers
    products = [note for note in part.account.notes if 'product of attention, float' in note]
    assert len(products) == 8 and products[0].startswith('backbone.stages.0.blocks.0.attn.w_msa.query_key')
    (quiet,), _ = parts_of(without_products(quantized_swin))
    assert not quiet.account.notes


def test_asymmetric_8_bit_rows_are_refused_by_name(float_swin: nn.Module) -> None:
    model = copy.deepcopy(float_swin)
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 56, 56)), 'rtn', 8, 8)
    with pytest.raises(ValueError, match=r'layers have 8-bit weights.*backbone\.patch_embed.*deploy=True'):
        parts_of(model)


def test_proof_finds_layers_that_are_not_integer(engine, partly_float: nn.Module) -> None:
    """One left float by override, one turned float behind the exporter's back."""
    (part,), _ = parts_of(partly_float)
    planted = FC1.replace('blocks.0', 'blocks.1')
    session = engine.load(keep_float(part.model, [planted]), 1)
    session.run([torch.randn(1, 3, 56, 56)])
    proofs = prove(session, part.account)
    assert {p.name: p.was_planned for p in proofs if not p.is_integer} == {FC1: False, planted: True}


def test_grid_of_two_scales_runs_in_float(float_swin: nn.Module) -> None:
    model = copy.deepcopy(float_swin)
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 56, 56)), 'erq_tpami', 4, 8)
    (part,), _ = parts_of(model)
    reasons = {layer.name: layer.reason for layer in part.account.float_layers}
    assert FC1 in reasons and 'two scales per row' in reasons[FC1]


def test_unknown_backbone_is_refused() -> None:
    from erq_mm.export.onnx import Unsupported

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3))

    with pytest.raises(Unsupported, match='is not exactly mmdet.models.backbones.swin.SwinTransformer'):
        parts_of(Other())


def test_unknown_neck_leaves_the_backbone(float_swin: nn.Module) -> None:
    model = copy.deepcopy(float_swin)
    model.neck = nn.Identity()
    (part,), left = parts_of(model)
    assert part.name == 'backbone' and left['neck'].endswith('its forward may differ')


def test_16_bits_hold_two_products_up_to_64_times_255() -> None:
    """2 * 255 * 64 = 32640 <= 32767 < 2 * 255 * 65; 7-bit activations never get there, 2 * 127 * 128 = 32512."""
    assert not cpu.may_saturate(64, 8) and cpu.may_saturate(65, 8)
    assert not cpu.may_saturate(128, 7)


@pytest.mark.parametrize('name, kernel', [('onnxruntime', 'MatMulIntegerToFloat'), ('openvino', 'FullyConnected')])
def test_layers_that_would_saturate_are_exact_all_the_same(name: str, kernel: str, monkeypatch) -> None:
    """All codes 127, all inputs 255: without VNNI the plain kernels give half of it."""
    from .conftest import graph_of

    pytest.importorskip(name, reason=f'{name} is not installed')
    x = torch.full((40, 64), 255.0)
    linear = nn.Linear(64, 48)
    nn.init.constant_(linear.weight, 1.0)
    layer = quantized_layer(linear, x, 8, 8, grid='symmetric')
    with torch.no_grad():
        layer.weight.copy_(127 * layer.weight_scale.expand_as(layer.weight))
    module = sys.modules[type(BACKENDS[name]()).__module__]
    monkeypatch.setattr(module, 'saturates', lambda: True)
    model, account = graph_of(layer, ('rows', 64))
    session = BACKENDS[name]().load(model, 1)
    torch.testing.assert_close(session.run([x])[0], layer(x).detach(), rtol=1e-5, atol=1e-5)
    assert 'no VNNI' in session.notes[0] and prove(session, account)[0].kernels[0].startswith(kernel)


def test_missing_engine_names_the_extra(quantized_swin: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ImportError, match=r"pip install 'erq_mm\[openvino\]'"):
        openvino_backend._import()


def test_unknown_precision_is_refused(engine, float_swin: nn.Module) -> None:
    (part,), _ = parts_of(float_swin)
    with pytest.raises(ValueError, match='precision=.f16.'):
        engine.load(part.model, precision='f16')


@pytest.mark.slow
@torch.no_grad()
def test_torch_export_takes_the_modules_themselves(quantized_swin: nn.Module) -> None:
    """Exported with dynamic height and width, a second size is right that mmdet's own merging need not pad."""
    model, dynamic = without_products(quantized_swin), torch.export.Dim.DYNAMIC
    exported = torch.export.export(model, (torch.randn(1, 3, 64, 96),), dynamic_shapes=({2: dynamic, 3: dynamic},))
    x = torch.randn(1, 3, 112, 136)
    for ours, theirs in zip(exported.module()(x), model(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
