"""The seven ImageNet models: every config builds the network it names, and quantizes it at the bits it is asked for."""

import copy
from functools import cache

import pytest
from mmengine.config import Config, ConfigDict

timm = pytest.importorskip('timm', reason='timm is optional')

from erq_mm.benchmark.published import TABLES  # noqa: E402
from erq_mm.calibration.recipes import resolve_recipe  # noqa: E402
from erq_mm.engine.evaluation import build_parser, load_config, prepare_config  # noqa: E402

from ...conftest import ROOT  # noqa: E402

FOLDER = ROOT / 'configs/imagenet'
MODELS = ('vit-s', 'vit-b', 'deit-t', 'deit-s', 'deit-b', 'swin-s', 'swin-b')
SIZES = {'t': 'tiny', 's': 'small', 'b': 'base'}
BITS = ('w3a3', 'w3a4', 'w4a4', 'w5a5', 'w6a6', 'w4a8', 'w8a8')


@cache
def loaded(name: str) -> Config:
    return load_config(str(FOLDER / f'{name}.py'))


def quantization(name: str, *options: str) -> ConfigDict:
    """Return the hook that tools/test.py would build from a config and its command line."""
    arguments = build_parser().parse_args([str(FOLDER / f'{name}.py'), 'float.pth', *options])
    return prepare_config(arguments, copy.deepcopy(loaded(name))).default_hooks.quantization


def test_every_file_belongs_to_one_of_the_models() -> None:
    endings = ('', '_erq-w4a4', '_erq-published-w4a4')
    assert {path.stem for path in FOLDER.glob('*.py')} == {f'{model}{ending}' for model in MODELS for ending in endings}


@pytest.mark.parametrize('name', MODELS)
def test_a_model_is_the_one_of_the_papers(name: str) -> None:
    config = loaded(name)
    assert config.default_hooks.get('quantization') is None and config.model.type == 'TimmImageClassifier'
    family, size = name.split('-')
    weights = timm.get_pretrained_cfg(config.model.model_name)
    assert weights.architecture.startswith(f'{family}_{SIZES[size]}_patch') and weights.has_weights
    assert (weights.input_size, weights.num_classes) == ((3, 224, 224), 1000)
    pipeline = config.test_dataloader.dataset.pipeline
    assert [step.get('model_name') for step in pipeline] == [None, config.model.model_name, None]


@pytest.mark.parametrize('name', MODELS)
def test_a_model_is_quantized_at_the_bits_it_is_asked_for(name: str) -> None:
    w4a4 = quantization(f'{name}_erq-w4a4')
    assert (w4a4.type, w4a4.recipe, w4a4.w_bits, w4a4.a_bits) == ('ERQHook', 'erq', 4, 4)
    for bits in BITS:
        hook = quantization(f'{name}_erq-w4a4', '--recipe', f'erq_{bits}')
        assert (f'w{hook.w_bits}a{hook.a_bits}', hook.calibration.num_images) == (bits, 32)


@pytest.mark.parametrize('name', MODELS)
def test_the_published_damping_is_a_file_away(name: str) -> None:
    """ERQ, section 5: lambda is 1e4, and 1e3 for DeiT-T, on sums over all rows."""
    key = 'default_hooks.quantization'
    options = ('--cfg-options', f'{key}.w_bits=3', f'{key}.a_bits=3')
    hook = quantization(f'{name}_erq-published-w4a4', *options)
    ridge = [step for step in resolve_recipe(hook.recipe).steps if step['type'] in ('aqer', 'wqer')]
    expected = ('sum', 1e3 if name == 'deit-t' else 1e4)
    assert [(step['lam_mode'], step['lam']) for step in ridge] == [expected] * 2
    assert (hook.w_bits, hook.a_bits, hook.calibration.num_images) == (3, 3, 32)


def test_published_figures_in_the_docstrings_are_those_of_the_tables() -> None:
    rows = {(row['match'].get('recipe'), row['match'].get('bits')): row for row in TABLES['imagenet']['rows']}
    titles = {column['detectors'][0]: column['name'] for column in TABLES['imagenet']['columns']}
    for name in MODELS:
        text = ' '.join((FOLDER / f'{name}_erq-w4a4.py').read_text().split())
        for bits in ('W3A4', 'W4A4', 'W5A5', 'W6A6', 'W4A8'):
            assert f'{bits} {rows["erq", bits]["values"][titles[name]]:.2f}' in text
