"""Folders of images: what is wrong with one is said before an evaluation or a calibration starts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from erq_mm.engine.calibration_data import CalibrationConfig, CalibrationImages, build_calibration_images
from erq_mm.engine.classification import ClassCountHook, TopKAccuracy

from .conftest import CLASSES, write_images

SPLIT = 'default_hooks.quantization.calibration.split'


def build(root: Path, kind: str = 'ImageFolder', prefix: str = 'val', **settings: Any) -> Any:
    return DATASETS.build(dict(type=kind, data_root=str(root), data_prefix=prefix, pipeline=[], **settings))


def test_folders_are_classes(images: Path) -> None:
    dataset = build(images)
    assert dataset.metainfo['classes'] == CLASSES and len(dataset) == 12
    assert [dataset.get_gt_labels()[i] for i in (0, 5, 11)] == [0, 1, 3]
    assert len(build(images, prefix='', with_label=False)) == 24


def test_imagenet_with_and_without_a_list(images: Path, tmp_path: Path) -> None:
    """1,000 class folders, or any folder whose meta/val.txt says the labels."""
    with pytest.raises(ValueError, match='val .* has 4 class folders, and the data set 1000 classes'):
        DATASETS.build(dict(type='ImageNetFolder', data_root=str(images), split='val', pipeline=[]))
    (tmp_path / 'val').mkdir()
    shutil.copy(images / 'val/bee/0.png', tmp_path / 'val/a.png')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/val.txt').write_text('a.png 17\n')
    listed = DATASETS.build(dict(type='ImageNetFolder', data_root=str(tmp_path), split='val', pipeline=[]))
    assert list(listed.get_gt_labels()) == [17] and len(listed.metainfo['classes']) == 1000


def test_what_is_wrong_with_a_folder(images: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nowhere.*does not exist'):
        build(images, prefix='nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='empty .*has no class folders'):
        build(tmp_path, prefix='empty')
    with pytest.raises(ValueError, match='empty .*has no images; images end in .*.jpeg'):
        build(tmp_path, prefix='empty', with_label=False)
    write_images(tmp_path, count=1)
    (tmp_path / 'val/bee/0.png').rename(tmp_path / 'val/bee/0.txt')
    with pytest.raises(ValueError, match='1 of 4 class folders of .*val .*have no images: bee'):
        build(tmp_path)


def calibration_images(config: str, **choice: Any) -> CalibrationImages:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return build_calibration_images(Config.fromfile(config), CalibrationConfig(**choice))


def test_ids_are_paths_and_a_larger_choice_contains_the_smaller(write_config: Callable) -> None:
    few, many = (calibration_images(write_config(), num_images=count).ids for count in (3, 12))
    assert many[:3] == few and len(set(many)) == 12
    assert set(many) == {f'train/{name}/{i}.png' for name in CLASSES for i in range(3)}
    again = calibration_images(write_config(), image_ids=[few[1]])
    assert again.ids == [few[1]] and again.samples[0]['inputs'].shape == (3, 32, 32)
    assert 'gt_label' not in again.samples[0]['data_samples']


def test_a_missing_calibration_split_names_the_others(write_config: Callable, tmp_path: Path) -> None:
    write_images(tmp_path / 'data', count=1)
    shutil.rmtree(tmp_path / 'data/train')
    config = write_config(tmp_path / 'data')
    with pytest.raises(FileNotFoundError, match=f'train split, .*data/train.*does not exist.*{SPLIT}=val'):
        calibration_images(config)
    assert calibration_images(config, split='val', num_images=4).ids[0].startswith('val/')


def test_an_unreadable_calibration_image_is_named(write_config: Callable, tmp_path: Path) -> None:
    write_images(tmp_path / 'data', count=1)
    (tmp_path / 'data/train/dog/0.png').write_text('no image')
    with pytest.raises(ValueError, match='calibration image train/dog/0.png of the train split.*cannot be read as an'):
        calibration_images(write_config(tmp_path / 'data'), num_images=4)


def test_other_classes_than_the_models() -> None:
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo={'classes': ('ant', 'cat', 'dog')}))
    model = nn.Module()
    model.num_classes = 4
    for wrapped in (model, nn.ModuleDict({'module': model})):
        runner = SimpleNamespace(model=wrapped, test_dataloader=loader)
        with pytest.raises(ValueError, match=r'test_dataloader has 3 classes \(ant, .*model gives 4: .*num_classes=3'):
            ClassCountHook().before_test(runner)
    model.num_classes = 3
    ClassCountHook().before_test(runner)


def test_accuracy_of_few_classes() -> None:
    results = [dict(pred_score=torch.tensor(s), gt_label=torch.tensor([1])) for s in ([0.1, 0.9, 0], [0.5, 0.4, 0.1])]
    assert TopKAccuracy(topk=(1, 2, 3, 5)).compute_metrics(results) == {'top1': 50.0, 'top2': 100.0}
    assert TopKAccuracy().compute_metrics(results) == {'top1': 50.0}
