"""A small quantized Swin on grids that kernels have, single layers, and the engines as parameters."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest
from erq_mm.nn import QuantConv2d, QuantLinear, QuantMatMul

from ...nn.swin import make_swin

onnx = pytest.importorskip('onnx', reason='exports need the package onnx')
ENGINES = ('onnxruntime', 'openvino')


class Detector(nn.Module):
    """Gives the backbone its name, as detectors do."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(x))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    """Return a back end whose engine is installed."""
    from erq_mm.export.backends import BACKENDS

    pytest.importorskip(request.param, reason=f'{request.param} is not installed')
    return BACKENDS[request.param]()


@pytest.fixture(scope='session')
def float_swin() -> nn.Module:
    torch.manual_seed(0)
    return Detector(make_swin())


@pytest.fixture(scope='session')
def quantized_swin(float_swin: nn.Module) -> nn.Module:
    """Return the Swin in W4A8, attention products quantized as RepQ does."""
    model = copy.deepcopy(float_swin)
    torch.manual_seed(0)
    erq_mm.quantize_(model, lambda m: m(torch.randn(1, 3, 100, 132)), 'repq', 4, 8)
    return model


def without_products(model: nn.Module) -> nn.Module:
    """Return a copy whose attention products are float, as in every graph."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, QuantMatMul):
            module.left_quantizer.is_active = module.right_quantizer.is_active = False
    return model


def quantized_layer(layer: nn.Module, x: Tensor, w_bits: int = 4, a_bits: int = 8, grid: str = 'uniform') -> nn.Module:
    """Return a layer with a fitted weight, and an input quantizer for the range of `x` with an integer zero point."""
    kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d
    new = kind(layer, QuantSpec(w_bits, 'row', grid), QuantSpec(a_bits))
    weight = new.weight_matrix()
    new.install_(round_to_nearest(weight, new.bias, fit_weight_grid(weight, new.weight_spec)))
    low, high = min(float(x.min()), 0.0), float(x.max())
    scale = (high - low) / (2**a_bits - 1)
    new.input_quantizer.set_parameters(scale, round(-low / scale))
    new.input_quantizer.is_active = True
    return new.eval()


def graph_of(layer: nn.Module, shape: tuple[int | str, ...], norm: nn.Module | None = None, relu: bool = False) -> Any:
    """Return (model, account) of a graph of one layer."""
    from erq_mm.export.onnx.graph import GraphBuilder
    from erq_mm.export.onnx.layers import LayerWriter

    graph = GraphBuilder('layer')
    writer = LayerWriter(graph, {layer: 'layer'})
    x = graph.input('x', shape)
    y = writer.linear(layer, x) if isinstance(layer, (nn.Linear, QuantLinear)) else writer.conv(layer, x, norm)
    graph.output(graph.add('Relu', y) if relu else y, 'y', (None,) * len(shape))
    return graph.model(), writer.account
