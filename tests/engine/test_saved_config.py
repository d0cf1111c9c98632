"""Configs come back from plain values, and the types of every detector of the zoo are known without importing any."""

import json
import math

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

from erq_mm.engine.saved_config import _check_and_strip, from_plain, known_types, to_plain

from .zoo import CONFIGS


@pytest.mark.parametrize('name', ['faster-rcnn', 'mask2former', 'rtmdet-ins', 'panoptic-fpn', 'dino', 'soft-teacher'])
def test_the_zoo_comes_back(name):
    config = get_config(f'mmdet::{CONFIGS[name]}')
    plain = to_plain(config)
    again = from_plain(json.loads(json.dumps(plain)))
    assert again.model == config.model
    assert again.test_dataloader == config.test_dataloader
    assert again._cfg_dict.to_dict()['test_pipeline'] == config._cfg_dict.to_dict()['test_pipeline']
    _check_and_strip(again.model, known_types(), 'model')
    assert 'init_cfg' not in str(again.model)


def test_classes_become_names_and_are_found_again():
    from mmdet.models.detectors import MaskRCNN

    config = Config(dict(model=dict(type=MaskRCNN, scales=(1, 2), nested=[dict(value=math.inf)])))
    again = from_plain(json.loads(json.dumps(to_plain(config))))
    assert again.model.scales == (1, 2) and again.model.nested[0].value == math.inf
    _check_and_strip(again.model, known_types(), 'model')
    assert again.model.type is MaskRCNN


def test_our_own_hooks_are_left_out():
    config = Config(
        dict(model=dict(type='MaskRCNN'), default_hooks=dict(quantization=dict(type='ERQHook'), logger=None))
    )
    assert to_plain(config)['default_hooks'] == {'logger': None}


def test_what_cannot_be_written_is_named():
    config = Config(dict(model=dict(type='MaskRCNN')))
    config.model.weights = ConfigDict(table=object())
    with pytest.raises(ValueError, match='model.weights.table of the config is <object'):
        to_plain(config)


@pytest.mark.parametrize('kind', ['os.system', 'antigravity', '__import__("os").system("true")', 'mmdet.Unknown'])
@pytest.mark.parametrize('place', ['neck', 'test_cfg'])
def test_unknown_types_are_refused(kind, place):
    model = ConfigDict(type='MaskRCNN', **{place: [dict(nms=dict(type=kind))]})
    with pytest.raises(ValueError, match=rf'model.{place}\[0\].nms.type'):
        _check_and_strip(model, known_types(), 'model')
