"""The linear layers of a file, read by the package whose layout it has."""

import json

import pytest
import torch

import erq_mm
from erq_mm.export.checkpoint import save_quantized
from erq_mm.export.container import read

from .models import make_bare, quantized

pytest.importorskip('compressed_tensors', reason='compressed-tensors is not installed: it is no dependency')


@pytest.mark.parametrize('bits', range(2, 9))
def test_its_reader_gives_our_weights(tmp_path, bits):
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    model, _ = quantized(make_bare, 'repq', bits, 8)
    save_quantized(model, tmp_path / 'model.safetensors')
    contents = read(tmp_path / 'model.safetensors')
    config = QuantizationConfig.model_validate(json.loads(contents.texts['quantization_config']))
    found = {}
    for scheme in config.config_groups.values():
        assert scheme.weights.num_bits == bits and scheme.input_activations.num_bits == 8
        for name in scheme.targets:
            state = {
                key.removeprefix(f'{name}.'): tensor
                for key, tensor in contents.tensors.items()
                if key.startswith(f'{name}.')
            }
            found[name] = PackedQuantizationCompressor.decompress(state, scheme)
    assert sorted(found) == ['fc1', 'fc2'] and config.ignore == ['conv']
    for name, state in found.items():
        layer = model.get_submodule(name)
        assert torch.equal(state['weight'], layer.weight)
        shifted = layer.input_quantizer.zero_point - 2**7
        assert state['input_scale'] == layer.input_quantizer.scale and state['input_zero_point'] == shifted


def test_what_it_has_no_words_for_is_ignored(tmp_path):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Linear(40, 24)), torch.randn(64, 24)
    recipe = {'type': 'erq_tpami'}
    erq_mm.quantize_(model, lambda m: m(x), recipe, 4, 4)
    save_quantized(model, tmp_path / 'model.safetensors')
    config = json.loads(read(tmp_path / 'model.safetensors').texts['quantization_config'])
    dual = [name for name, layer in model.named_children() if layer.weight_spec.grid == 'dual_uniform']
    assert config['ignore'] == dual
