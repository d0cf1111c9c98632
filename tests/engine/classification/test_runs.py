"""Evaluations of a classifier through tools/test.py, tools/quantize.py and mmengine's Runner."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.config import Config
from PIL import Image
from timm.data import create_transform, resolve_data_config

import erq_mm
from erq_mm.engine import quantize_detector_
from erq_mm.engine.classification.kind import KIND
from erq_mm.engine.quantizing import main as quantize
from erq_mm.export.integer import IntegerLayer

from .conftest import CLASSES, NAME, OPTIONS, scores

QUANTIZATION = 'default_hooks.quantization'
FEW = ('--cfg-options', f'{QUANTIZATION}.calibration.num_images=4')


def report_of(folder: Path) -> dict[str, Any]:
    (path,) = (folder / 'work').glob('*/quantization.json')
    return json.loads(path.read_text())


def test_float_scores_are_timms(make_runner: Callable, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    found = scores(make_runner('--show-dir', str(tmp_path / 'painted')))
    assert len(list((tmp_path / 'painted').iterdir())) == 3  # named after their files, of which there are four each
    network = timm.create_model(NAME, **OPTIONS).eval()
    network.load_state_dict(torch.load(checkpoint))
    prepare = create_transform(**resolve_data_config({'img_size': 32}, model=network))
    paths = [images / 'val' / name / f'{i}.png' for name in CLASSES for i in range(3)]
    batch = torch.stack([prepare(Image.open(path).convert('RGB')) for path in paths])
    with torch.no_grad():
        assert torch.allclose(found, network(batch).softmax(-1), atol=1e-6)


def test_a_recipe_quantizes_and_the_saved_file_is_the_same_bits(
    make_runner: Callable, write_config: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'model.safetensors'
    runner = make_runner(
        '--recipe', 'erq_w4a4', '--out', str(tmp_path / 'out.pkl'), *FEW, f'{QUANTIZATION}.save={file}'
    )
    wanted = scores(runner)
    report = report_of(tmp_path)
    assert (report['recipe'], report['w_bits']) == ('erq', 4) and report['versions']['timm'] == timm.__version__
    assert all(image_id.startswith('train/') for image_id in report['calibration']['image_ids'])
    names = {layer['name'] for layer in report['layers']}
    assert {'model.blocks.1.mlp.fc2', 'model.blocks.0.attn.qkv', 'model.head'} <= names
    dumped = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert torch.equal(torch.stack([sample['pred_score'] for sample in dumped]), wanted)

    assert torch.equal(scores(make_runner(weights=file)), wanted)
    model = erq_mm.load_quantized(file)
    assert model.dataset_meta['classes'] == list(CLASSES) and model.cfg.model.model_name == NAME
    batch = next(iter(runner.test_dataloader))
    assert torch.equal(torch.stack([sample.pred_score for sample in model.test_step(batch)]), wanted[:8])

    again = tmp_path / 'again.pth'
    quantize(None, [write_config(), str(checkpoint), '--recipe', 'erq_w4a4', '--out', str(again), *FEW])
    other = erq_mm.load_quantized(again).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in model.state_dict().items())


def test_32_images_calibrate_unless_the_config_says_another_number(write_config: Callable, checkpoint: Path) -> None:
    config = Config.fromfile(write_config())
    for settings, message in (({}, 'asks for 32 images'), ({'calibration': {'num_images': 13}}, 'asks for 13 images')):
        model = KIND.init_model(config, str(checkpoint), 'cpu')
        with pytest.raises(ValueError, match=message):  # there are 12
            quantize_detector_(model, recipe='rtn', **settings)
    model = KIND.init_model(config, str(checkpoint), 'cpu')
    report = quantize_detector_(model, recipe='rtn', calibration={'image_ids': ['train/bee/1.png']})
    assert report.calibration == {'image_ids': ['train/bee/1.png'], 'split': 'train'}
    assert model.dataset_meta['classes'] == CLASSES


RECIPES = [dict(type='ptq4vit'), dict(type='qdrop', iterations=2, layer_iterations=2, images=2)]


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe['type'])
def test_recipes_that_need_a_loss_or_predictions(recipe: dict, write_config: Callable, checkpoint: Path) -> None:
    model = KIND.init_model(Config.fromfile(write_config()), str(checkpoint), 'cpu')
    report = quantize_detector_(model, recipe=recipe, calibration={'num_images': 3})
    assert {layer.kind for layer in report.layers} >= {'linear'} and len(report.layers) >= 9  # 4 in a block, the head


def test_integers_give_what_was_simulated(write_config: Callable, checkpoint: Path) -> None:
    model = KIND.init_model(Config.fromfile(write_config()), str(checkpoint), 'cpu')
    quantize_detector_(model, recipe='erq', w_bits=6, a_bits=8, calibration={'num_images': 12})
    batch = {'inputs': [torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)]}
    x = model.data_preprocessor(batch)['inputs']
    with torch.no_grad():
        simulated = model(x)
        deployment = erq_mm.deploy_(model)
        assert sum(isinstance(module, IntegerLayer) for module in model.modules()) >= 9
        assert {'model.blocks.0.attn.qkv', 'model.blocks.1.mlp.fc2', 'model.head'} <= set(deployment.integer)
        assert float((model(x) - simulated).norm() / simulated.norm()) < 0.02


def test_flips_are_averaged(make_runner: Callable, tmp_path: Path) -> None:
    runner = make_runner('--tta', '--recipe', 'rtn_w8a8', *FEW)
    assert torch.allclose(scores(runner).sum(1), torch.ones(12))
    assert len(report_of(tmp_path)['calibration']['image_ids']) == 4
    views = next(iter(runner.test_dataloader))['inputs']
    assert all(torch.equal(first.flip(-1), second) for first, second in zip(*views, strict=True))
    with pytest.raises(ValueError, match='--tta gives several views .* leave one of them out'):
        make_runner('--tta', '--show-dir', str(tmp_path / 'painted'))
