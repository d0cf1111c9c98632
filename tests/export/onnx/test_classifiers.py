"""timm's classifiers as one graph: the model on batches of images, refusals, and the account."""

import copy
from functools import cache

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.export.backends import prove

timm = pytest.importorskip('timm', reason='timm is optional')

from .conftest import onnx, without_products  # noqa: E402, F401

VIT = dict(img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2, num_classes=10)
SWIN = dict(img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=10)
MODELS = {
    'vit': ('vit_tiny_patch16_224', VIT),
    'options': (
        'vit_tiny_patch16_224',
        VIT | dict(global_pool='avg', reg_tokens=2, no_embed_class=True, init_values=0.3, qk_norm=True, pre_norm=True),
    ),
    'distilled': ('deit_tiny_distilled_patch16_224', VIT | dict(patch_size=16)),
    'swin': ('swin_tiny_patch4_window7_224', SWIN),
    'padded swin': (
        'swin_tiny_patch4_window7_224', SWIN | dict(img_size=(36, 44), depths=(2, 2, 1), num_heads=(2, 4, 4)),
    ),
}  # fmt: skip


@cache
def float_model(name: str) -> nn.Module:
    """Return a model whose norms and biases are not those of an initialisation."""
    torch.manual_seed(0)
    kind, options = MODELS[name]
    model = timm.create_model(kind, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def images(name: str, count: int = 3) -> torch.Tensor:
    size = MODELS[name][1]['img_size']
    return torch.randn(count, 3, *((size, size) if isinstance(size, int) else size))


@cache
def quantized_model(name: str) -> nn.Module:
    """Return the model in W4A8, attention products quantized as RepQ does."""
    model = copy.deepcopy(float_model(name))
    erq_mm.quantize_(model, lambda m: m(images(name)), 'repq', 4, 8)
    return model


def part_of(model: nn.Module) -> object:
    from erq_mm.export.onnx import write_parts

    (part,), left = write_parts(model)
    assert part.name == 'classifier' and not left
    return part


@torch.no_grad()
def check_quantized(engine: str, name: str) -> None:
    """As of the detectors' graphs: all layers integer, attention products float, 30 dB (codes at ties)."""
    from erq_mm.export.backends import BACKENDS

    model = quantized_model(name)
    part, simulated = part_of(model), without_products(model)
    session = BACKENDS[engine]().load(part.model, 1)
    assert all(proof.is_integer for proof in prove(session, part.account))
    for count in (1, 3):
        x = images(name, count)
        (ours,), theirs = session.run([x]), simulated(x)
        assert ours.shape == theirs.shape and (ours - theirs).square().sum() < 1e-3 * theirs.square().sum()


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_a_graph_is_the_model_float_and_quantized(name: str) -> None:
    from erq_mm.export.backends import BACKENDS

    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    x, model = images(name), float_model(name)
    (logits,) = BACKENDS['onnxruntime']().load(part_of(model).model, 1).run([x])
    torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-4)
    check_quantized('onnxruntime', name)


@pytest.mark.parametrize('name', ['vit', 'swin', 'padded swin'])
def test_openvino_gives_the_same(name: str) -> None:
    """The Swin of whole windows is where OpenVINO 2026.4 moves scales behind a reshape, see `TimmWriter`."""
    pytest.importorskip('openvino', reason='openvino is not installed')
    check_quantized('openvino', name)


def test_every_layer_is_in_the_account() -> None:
    for name in ('distilled', 'padded swin'):
        model = quantized_model(name)
        layers = {
            n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) or hasattr(m, 'weight_spec')
        }
        part = part_of(nn.Sequential(model))  # in whatever it is wrapped
        assert {layer.name for layer in part.account.layers} == {f'0.{layer}' for layer in layers}
        blocks = 2 if name == 'distilled' else 5
        assert len(part.account.notes) == 2 * blocks and '.query_key: product of attention' in part.account.notes[0]


def test_windows_go_back_to_where_they_came_from() -> None:
    from erq_mm.export.onnx.timm_swin import into_windows, out_of_windows

    for size, window, shift in (((9, 11), (4, 4), (2, 2)), ((8, 8), (4, 4), (0, 0)), ((6, 5), (3, 4), (1, 0))):
        there, back = into_windows(size, window, shift), out_of_windows(size, window, shift)
        assert there[back].tolist() == list(range(size[0] * size[1]))
        assert sorted(there[there >= 0]) == sorted(there[back])


@pytest.mark.parametrize(
    ('kind', 'options', 'reason'),
    [
        ('vit_tiny_patch16_224', VIT | dict(global_pool='map'), "pooling 'map' by attention"),
        ('vit_tiny_patch16_224', VIT | dict(act_layer='relu'), 'ReLU is not exactly'),
        ('resnet10t', {}, 'ResNet has no backbone and is no classifier of .*VisionTransformer'),
        ('swinv2_tiny_window8_256', dict(depths=(1,), num_heads=(1,), embed_dim=32), 'SwinTransformerV2 has no'),
    ],
)
def test_what_no_writer_knows_is_refused(kind: str, options: dict, reason: str) -> None:
    from erq_mm.export.onnx import Unsupported, write_parts

    with pytest.raises(Unsupported, match=reason):
        write_parts(timm.create_model(kind, **options))
