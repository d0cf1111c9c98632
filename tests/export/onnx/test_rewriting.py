"""Graphs rewritten for one engine are the same function: gathered heads, quantizers written out, subnormals as zero."""

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.core.quantizers.uniform import UniformQuantizer
from erq_mm.core.spec import QuantSpec
from erq_mm.export.backends.cpu import subnormals_as_zero
from erq_mm.export.backends.fusion import fuse_integer_layers
from erq_mm.export.backends.heads import gather_heads
from erq_mm.export.backends.quantizers import write_out_quantizers
from erq_mm.export.onnx import write_parts
from erq_mm.export.onnx.codes import activation_grid
from erq_mm.export.onnx.graph import GraphBuilder
from erq_mm.export.onnx.layers import LayerWriter

from .conftest import onnx

SIZES = [(64, 96), (57, 203), (31, 40)]  # even, padded everywhere, smaller than two windows
SUBNORMAL = 1e-40


def run(model: Any, *inputs: np.ndarray) -> list[np.ndarray]:
    ort = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    session = ort.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)})


@pytest.mark.parametrize('a_bits', [4, 8])
def test_gathered_heads_are_the_same_bits(float_swin: nn.Module, a_bits: int) -> None:
    model = copy.deepcopy(float_swin)
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 56, 56)), {'type': 'rtn', 'deploy': True}, 4, a_bits)
    fused = fuse_integer_layers(write_parts(model)[0][0].model, [])
    gathered = gather_heads(fused)
    kinds = [Counter(node.op_type for node in graph.graph.node) for graph in (fused, gathered)]
    blocks = sum(name.endswith('.w_msa') for name, _ in model.named_modules())
    assert kinds[0]['Transpose'] - kinds[1]['Transpose'] == 3 * blocks  # the keys' stays
    assert kinds[0]['MatMulIntegerToFloat'] == kinds[1]['MatMulIntegerToFloat']
    for size in SIZES:
        x = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
        for ours, theirs in zip(run(gathered, x), run(fused, x), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_no_window_attention_stays(quantized_swin: nn.Module) -> None:
    fused = fuse_integer_layers(write_parts(quantized_swin)[0][0].model, [])
    for node in fused.graph.node:
        if node.op_type == 'Transpose':
            node.attribute[0].ints[:] = [0, 1, 3, 2]  # other orders mean something else
    assert gather_heads(fused).graph.node == fused.graph.node


@pytest.mark.parametrize('bits', [4, 8])
def test_written_out_quantizers_have_the_codes_of_the_simulation(bits: int) -> None:
    """All codes, ties included, which division and multiplication by the reciprocal round differently now and then."""
    quantizer = UniformQuantizer(QuantSpec(bits))
    quantizer.set_parameters(0.0373, 3)
    quantizer.is_active = True
    norm = nn.LayerNorm(64)
    graph = GraphBuilder('quantizer')
    writer, grid = LayerWriter(graph, {norm: 'norm'}), activation_grid(quantizer)
    normed = writer.layer_norm(norm, graph.input('x', ('rows', 64)))
    graph.output(normed, 'normed', (None, 64))
    graph.output(writer.dequantized(writer.codes(normed, grid), grid), 'y', (None, 64))
    written = write_out_quantizers(graph.model())
    kinds = Counter(node.op_type for node in written.graph.node)
    assert kinds['QuantizeLinear'] == 0 and kinds['Cast'] == 1 and kinds['DequantizeLinear'] == 1
    values, codes = run(written, np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32))
    np.testing.assert_array_equal(codes, quantizer.fake_quantize(torch.from_numpy(values)).numpy())
    onnx.checker.check_model(written)


def test_quantizers_that_layers_fuse_are_left(quantized_swin: nn.Module) -> None:
    model = write_parts(quantized_swin)[0][0].model
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    left = [node for node in write_out_quantizers(model).graph.node if node.op_type == 'QuantizeLinear']
    before = [node for node in model.graph.node if node.op_type == 'QuantizeLinear']
    assert 0 < len(left) < len(before)
    assert {makers.get(node.input[0], 'input') for node in left} <= {'Gelu', 'Pad', 'input'}


def test_subnormals_are_zero_inside_and_come_back() -> None:
    tiny = torch.full((4,), SUBNORMAL)
    with subnormals_as_zero():
        assert not (tiny * 1).any()
        with subnormals_as_zero():
            pass
        assert not (tiny * 1).any()  # as it was outside the inner one
    assert (tiny * 1).all()
    with pytest.raises(RuntimeError, match='stops'), subnormals_as_zero():
        raise RuntimeError('stops')
    assert (tiny * 1).all()


def test_engines_leave_the_caller_its_subnormals(engine, float_swin: nn.Module) -> None:
    (part,), _ = write_parts(float_swin)
    session = engine.load(part.model, 1)
    session.run([torch.randn(1, 3, 56, 56)])
    assert (torch.full((4,), SUBNORMAL) * 1).all()
