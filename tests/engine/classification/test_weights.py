"""Weights get in from every kind of file, and those of another model do not."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, load_checkpoint
from safetensors.torch import save_file
from torch import nn

import erq_mm.engine.classification  # noqa: F401  registers the model
from erq_mm.engine.classification import pretrained

from .conftest import NAME, OPTIONS

State = dict[str, torch.Tensor]


def build(**changes: Any) -> nn.Module:
    return MODELS.build(dict(type='TimmImageClassifier', model_name=NAME, **OPTIONS) | changes)


@pytest.fixture
def state(checkpoint: Path) -> State:
    return torch.load(checkpoint)


FORMS: dict[str, Callable[[State], Any]] = {
    'timm': lambda state: state,
    'papers': lambda state: {'model': state, 'epoch': 299},
    'averaged': lambda state: {'model': {k: 0 * v for k, v in state.items()}, 'model_ema': state},
    'mmengine': lambda state: {'state_dict': {f'model.{k}': v for k, v in state.items()}, 'meta': {}},
    'distributed': lambda state: {'state_dict': {f'module.model.{k}': v for k, v in state.items()}},
    'half': lambda state: {key: value.half() for key, value in state.items()},
}


@pytest.mark.parametrize('form', FORMS)
def test_forms_of_checkpoints(form: str, state: State, tmp_path: Path) -> None:
    torch.save(FORMS[form](state), tmp_path / 'file.pth')
    model = build(pretrained=str(tmp_path / 'file.pth'))
    wanted = {key: value.half().float() if form == 'half' else value for key, value in state.items()}
    assert all(torch.equal(value, wanted[key]) for key, value in model.model.state_dict().items())


def test_safetensors(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / 'model.safetensors')
    model = build()
    load_checkpoint(model, str(tmp_path / 'model.safetensors'))
    assert torch.equal(model.model.head.weight, state['head.weight'])
    (tmp_path / 'model.safetensors').write_bytes((tmp_path / 'model.safetensors').read_bytes()[:5000])
    with pytest.raises(ValueError, match='model.safetensors cannot be loaded: it is truncated'):
        load_checkpoint(model, str(tmp_path / 'model.safetensors'))


def test_names_are_those_of_the_modules(state: State) -> None:
    """A checkpoint of mmengine has the names by which layers are quantized, and loads again."""
    model = build()
    modules = dict(model.named_modules())
    assert all(key.rpartition('.')[0] in modules for key in model.state_dict())
    assert 'model.blocks.0.attn.qkv.weight' in model.state_dict()
    other = build()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.model.head.weight, model.model.head.weight)
    model.init_weights()
    assert torch.equal(other.model.head.weight, model.model.head.weight)


def test_layouts_that_timm_converts() -> None:
    """Swin's release has patch merging at the end of a stage; timm moved it to the beginning of the next."""
    name, sizes = 'swin_tiny_patch4_window7_224', dict(img_size=32, patch_size=2, window_size=4, num_classes=4)
    options = sizes | dict(embed_dim=16, depths=(1, 1), num_heads=(1, 2))
    network = timm.create_model(name, **options)
    old = {}
    for key, value in network.state_dict().items():
        old[key.replace('layers.1.downsample', 'layers.0.downsample').replace('head.fc', 'head')] = value
    assert set(old) != set(network.state_dict())
    model = MODELS.build(dict(type='TimmImageClassifier', model_name=name, **options))
    model.load_state_dict({'model': old})
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in model.model.state_dict().items())


def test_checkpoints_of_other_models(state: State) -> None:
    with pytest.raises(ValueError, match=rf'not one of {NAME} .*12 unexpected: blocks.1.*give that model'):
        build(depth=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r'12 missing: blocks.2.norm1.weight'):
        build(depth=3).load_state_dict(state)
    with pytest.raises(ValueError, match=r'of another shape: cls_token \(1, 1, 32\) instead of \(1, 1, 64\)'):
        build(embed_dim=64).load_state_dict(state)
    with pytest.raises(ValueError, match=r'4 classes \(head.weight \(4, 32\)\).*built for 10: set model.num_classes=4'):
        build(num_classes=10).load_state_dict(state)
    with pytest.raises(ValueError, match='not one of'):
        build().load_state_dict({'backbone.conv1.weight': torch.zeros(3)})


def test_checkpoint_of_another_model_ends_an_evaluation(make_runner: Callable, write_config: Callable) -> None:
    with pytest.raises(ValueError, match='checkpoint has 4 classes'):
        make_runner(config=write_config(num_classes=5)).test()


def test_unknown_names_and_options() -> None:
    with pytest.raises(ValueError, match=r"has no model 'deit_smal_patch16_224'; the nearest are .*deit_small_patch16"):
        build(model_name='deit_smal_patch16_224')
    with pytest.raises(ValueError, match=r"has no weights 'nope' of deit_small_patch16_224; it has .*fb_in1k"):
        build(model_name='deit_small_patch16_224.nope')
    with pytest.raises(ValueError, match="has no model 'hf-hub:timm/resnet18'"):
        build(model_name='hf-hub:timm/resnet18')
    with pytest.raises(ValueError, match='cannot build vit_tiny.*wings'):
        build(wings=2)
    with pytest.raises(ValueError, match=r"takes no \['checkpoint_path'\]"):
        build(checkpoint_path='file.pth')


def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def create(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
        made.append((name, pretrained))
        return nn.Sequential(nn.Linear(2, 3))

    monkeypatch.setattr(pretrained.timm, 'create_model', create)
    loaded = CheckpointLoader.load_checkpoint('timm://deit_small_patch16_224.fb_in1k')
    assert made == [('deit_small_patch16_224.fb_in1k', True)] and set(loaded['state_dict']) == {'0.weight', '0.bias'}
    with pytest.raises(ValueError, match='no pretrained weights of vit_base_patch16_18x2_224'):
        CheckpointLoader.load_checkpoint('timm://vit_base_patch16_18x2_224')

    def offline(*_: Any, **__: Any) -> nn.Module:
        raise OSError('no route to host')

    monkeypatch.setattr(pretrained.timm, 'create_model', offline)
    with pytest.raises(ConnectionError, match='cannot be fetched .*no route to host.*huggingface.co/timm/deit_small'):
        build(model_name='deit_small_patch16_224.fb_in1k', pretrained=True)


def test_a_copy_loads_too(state: State) -> None:
    """The hook that fits names is of the module it is called for, as test-time augmentation and EMA copy models."""
    model = copy.deepcopy(build())
    model.load_state_dict(state)
    wrapped = nn.Sequential(build())
    wrapped.load_state_dict({f'0.model.{key}': value for key, value in state.items()})
    assert torch.equal(wrapped[0].model.head.weight, model.model.head.weight)
