"""What was saved comes back bit for bit, from every recipe and at every bit-width; what does not fit is refused."""

import json

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.steps import needs
from erq_mm.export.checkpoint import load_into_, save_quantized
from erq_mm.export.container import MARK, Contents, read, write
from erq_mm.nn.layers import QuantLayer

from ..calibration.small_recipes import RECONSTRUCTIONS, SMALL_RECIPES
from ..nn.swin import make_swin
from .models import fresh, make_bare, quantized

FORMATS = ('.safetensors', '.pth')


def assert_same(loaded: nn.Module, saved: nn.Module) -> None:
    expected = saved.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    image = torch.randn(1, 3, 37, 41)
    for a, b in zip(outputs(loaded, image), outputs(saved, image), strict=True):
        assert torch.equal(a, b)


def outputs(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        out = model(image)
    return [out] if isinstance(out, torch.Tensor) else list(out)


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('bits', range(2, 9))
def test_every_bit_width(tmp_path, suffix, bits):
    model, report = quantized(make_bare, 'repq', bits, bits)
    save_quantized(model, tmp_path / f'model{suffix}', report)
    loaded = fresh(make_bare)
    record = load_into_(loaded, tmp_path / f'model{suffix}')
    assert_same(loaded, model)
    assert record.report['recipe'] == 'repq' and record.report['w_bits'] == bits
    assert loaded.fc2 is loaded.twice['first']


# what needs no more than forwards; the others run on the demo detector
FORWARDS_ONLY = [n for n in sorted(SMALL_RECIPES) if n not in RECONSTRUCTIONS and not needs(resolve_recipe(n))]


@pytest.mark.parametrize('recipe', FORWARDS_ONLY)
def test_every_recipe_on_swin(tmp_path, recipe):
    model, report = quantized(make_swin, SMALL_RECIPES[recipe], 3, 4, 'linears')
    save_quantized(model, tmp_path / 'model.safetensors', report)
    loaded = fresh(make_swin)
    load_into_(loaded, tmp_path / 'model.safetensors')
    assert_same(loaded, model)


def test_mixed_bits_and_float_layers(tmp_path):
    torch.manual_seed(0)
    model, images = make_bare(), torch.randn(1, 3, 9, 9)
    erq_mm.quantize_(model, lambda m: m(images), 'erq', 4, 4, 'all', {'fc1': {'w_bits': 7}, 'conv': 'float'})
    save_quantized(model, tmp_path / 'model.safetensors')
    loaded = fresh(make_bare)
    load_into_(loaded, tmp_path / 'model.safetensors')
    assert_same(loaded, model)
    assert not isinstance(loaded.conv, QuantLayer) and loaded.fc1.weight_spec.bits == 7


def test_attention_of_torch(tmp_path):
    def make():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Linear(3 * 20, 16)
                self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

            def forward(self, x):
                x = self.embed(x.transpose(1, 2).flatten(2))[:, :8] if x.shape[-1] == 20 else x.new_zeros(1, 8, 16)
                return self.attention(x, x, x)[0]

        return Net().eval()

    model, _ = quantized(make, 'repq')
    save_quantized(model, tmp_path / 'model.safetensors')
    loaded = fresh(make)
    load_into_(loaded, tmp_path / 'model.safetensors')
    assert_same(loaded, model)
    x = torch.randn(1, 3, 24, 20)
    assert torch.equal(loaded(x), model(x))


def test_the_size_of_codes(tmp_path):
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))  # noqa: E731
    for bits, ratio in ((4, 7.6), (3, 9.9), (8, 3.9)):
        model, x = make(), torch.randn(64, 256)
        erq_mm.quantize_(model, lambda m, x=x: m(x), 'rtn', bits, 8)
        table = save_quantized(model, tmp_path / 'model.safetensors')
        assert table.quantized.ratio > ratio
        assert table.quantized.float32 == 4 * (2 * 256 * 512 + 256 + 512)
        packed = read(tmp_path / 'model.safetensors').tensors['0.weight_packed']
        assert packed.nbytes == 256 * 512 * bits // 8
        assert table.file.saved == (tmp_path / 'model.safetensors').stat().st_size


def test_float_models_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match='Net is float: quantize it first'):
        save_quantized(make_bare(), tmp_path / 'model.safetensors')
    assert not list(tmp_path.iterdir())


def test_changed_weights_are_not_saved(tmp_path):
    model, _ = quantized(make_bare)
    with torch.no_grad():
        model.fc1.weight += 1e-3
    with pytest.raises(ValueError, match='weight of fc1 does not lie on its grid'):
        save_quantized(model, tmp_path / 'model.safetensors')
    assert not list(tmp_path.iterdir())


def other_width():
    torch.manual_seed(1)
    model = make_bare()
    model.fc2 = nn.Linear(13, 7, bias=False)
    model.twice['first'] = model.fc2
    return model


def without_norm():
    model = fresh(make_bare)
    model.norm = nn.Identity()
    return model


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (other_width, r'fc2: linear \(7, 13\) in the model, linear \(5, 13\) in the file'),
        (without_norm, 'unexpected: norm.bias, norm.weight'),
        (lambda: nn.Sequential(nn.Linear(3, 3)), 'is not there'),
        (lambda: quantized(make_bare)[0], 'quantized already'),
    ],
)
def test_models_that_do_not_fit_stay_as_they_are(tmp_path, make, message):
    save_quantized(quantized(make_bare)[0], tmp_path / 'model.safetensors', dataset_meta={'classes': ['a', 'b']})
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        load_into_(model, tmp_path / 'model.safetensors')
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def altered(path, change):
    """Write a file with a valid checksum and other contents."""
    contents = read(path)
    texts, tensors = dict(contents.texts), dict(contents.tensors)
    change(texts, tensors)
    write(path, Contents(tensors, texts))


def set_format(texts, _tensors):
    texts[MARK] = json.dumps(json.loads(texts[MARK]) | {'format': 2})


def set_bits(texts, _tensors):
    record = json.loads(texts[MARK])
    record['layers']['fc1']['weight']['bits'] = 8
    texts[MARK] = json.dumps(record)


def set_unknown_grid(texts, _tensors):
    record = json.loads(texts[MARK])
    record['layers']['fc1']['input']['grid'] = 'os.system'
    texts[MARK] = json.dumps(record)


CHANGES = {
    'format 2 and this version of erq_mm reads 1: update': set_format,
    'weight_packed is torch.int32': set_bits,
    "grid must be one of .* got 'os.system'": set_unknown_grid,
    'cannot be read': lambda texts, _: texts.update({MARK: '{'}),
    'malformed': lambda texts, _: texts.update({MARK: '{"format": 1, "layers": {}}'}),
    r"fc1 lacks \['weight_scale'\]": lambda _, tensors: tensors.pop('fc1.weight_scale'),
    'missing: fc1.bias': lambda _, tensors: tensors.pop('fc1.bias'),
    'unexpected: more': lambda _, tensors: tensors.update(more=torch.zeros(1)),
    'no positive number': lambda _, tensors: tensors['fc1.weight_scale'].fill_(float('nan')),
    'weight_shape is .13, 7.': lambda _, tensors: tensors['fc1.weight_shape'].copy_(torch.tensor([13, 7])),
    'weight_scale is torch.float32': lambda _, t: t.update({'fc1.weight_scale': torch.ones(3, 1)}),
    'has no entry': lambda texts, _: texts.pop(MARK),
}


@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('message', CHANGES)
def test_bad_contents(tmp_path, message, suffix):
    path = tmp_path / f'model{suffix}'
    save_quantized(quantized(make_bare)[0], path)
    altered(path, CHANGES[message])
    model = fresh(make_bare)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_into_(model, path)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
