"""Weights on levels of a table: stored at their own bits, integers for kernels."""

import json

import pytest
import torch

from erq_mm.export.checkpoint import load_into_, save_quantized
from erq_mm.export.container import read, write
from erq_mm.export.integer.codes import IntegerWeight, integer_weight
from erq_mm.export.layers import pack_weight
from erq_mm.export.onnx.codes import integer_weight as graph_weight
from erq_mm.export.packing import words

from ..nn.swin import make_swin
from .models import fresh, quantized


@pytest.fixture(scope='module', params=(2, 3, 4))
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return quantized(make_swin, 'serq', request.param, 4, 'linears')[0]


def layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    found = {name: m for name, m in model.named_modules() if getattr(m, 'weight_table', None) is not None}
    assert found
    return found


def test_a_file_has_the_bits_of_the_table_and_gives_every_weight_back(model, tmp_path) -> None:
    save_quantized(model, tmp_path / 'model.safetensors')
    loaded = fresh(make_swin)
    load_into_(loaded, tmp_path / 'model.safetensors')
    for name, layer in layers(model).items():
        bits = layer.weight_spec.bits
        packed = pack_weight(name, layer)['weight_packed']
        assert packed.shape == (len(layer.weight), words(layer.weight[0].numel(), bits))
        other = loaded.get_submodule(name)
        assert torch.equal(other.weight, layer.weight) and torch.equal(other.weight_table, layer.weight_table)
        assert torch.equal(other.weight_zero_point, layer.weight_zero_point)
    config = json.loads(read(tmp_path / 'model.safetensors').texts['quantization_config'])
    assert set(layers(model)) <= set(config['ignore'])  # compressed-tensors has no word for tables


def test_kernels_get_integers_of_six_bits_and_a_sign(model) -> None:
    for name, layer in layers(model).items():
        found = integer_weight(layer)
        assert isinstance(found, IntegerWeight), (name, found)
        torch.testing.assert_close(found.codes.flatten(1) * found.scale[:, None], layer.weight_matrix())
        assert int(found.codes.int().abs().max()) <= 60
        assert len(found.codes[0].unique()) <= 2**layer.weight_spec.bits
        assert (graph_weight(layer).codes == found.codes.numpy()).all()


@pytest.mark.parametrize('change', [lambda table: table.flip(0), lambda table: table + 1])
def test_a_table_that_is_none_is_refused(change, model, tmp_path) -> None:
    save_quantized(model, tmp_path / 'model.safetensors')
    contents = read(tmp_path / 'model.safetensors')
    name = next(key for key in contents.tensors if key.endswith('weight_table'))
    contents.tensors[name] = change(contents.tensors[name])
    write(tmp_path / 'model.safetensors', contents)
    with pytest.raises(ValueError, match='weight_table is not in ascending order, or it or a zero point'):
        load_into_(fresh(make_swin), tmp_path / 'model.safetensors')


def test_more_than_four_bits_have_no_table() -> None:
    model, _ = quantized(make_swin, 'serq', 5, 4, 'linears')
    assert not any(name.endswith('weight_table') for name in model.state_dict())
