"""What is said about loaders, sets and images that cannot calibrate, or should not."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmengine.config import Config

from erq_mm.engine.calibration_data import CalibrationConfig

from .small_sets import LOAD, METAINFO, PACK, TEST, Folder, build, make_config, wrap, write_set

pytestmark = pytest.mark.usefixtures('mmdet_scope')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(seed=-1), 'seed must be an integer from 0 to .* got -1'),
        (dict(seed=None), 'seed must be an integer .* got None'),
        (dict(num_images=1.5), 'at least one image, got num_images=1.5'),
        (dict(image_ids=[]), r'at least one image, got num_images=1, image_ids=\(\)'),
        (dict(split='all'), "split must be one of .*, got 'all'"),
    ],
)
def test_options_are_checked_at_once(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrationConfig(**options)


def test_a_missing_loader_is_named(pair: tuple[dict, dict]) -> None:
    test = dict(pair[0], pipeline=TEST)
    with pytest.raises(
        ValueError, match=r"no train_dataloader to calibrate on; set .*split to one of \['val', 'test'\]"
    ):
        build(make_config(val=test, test=test))
    with pytest.raises(ValueError, match=r'no train_dataloader to calibrate on; nor any other: .* in its cfg'):
        build(Config({}))
    with pytest.raises(ValueError, match='neither test_dataloader nor val_dataloader'):
        build(make_config(train=pair[0]))
    with pytest.raises(ValueError, match='val_dataloader.dataset has no pipeline'):
        build(make_config(train=pair[0], val=dict(type='CocoDataset')))


def test_a_data_set_that_is_built_already_is_refused() -> None:
    config = Config(dict(test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=TEST))))
    config.train_dataloader = dict(dataset=BaseDetDataset(lazy_init=True))
    with pytest.raises(ValueError, match='train_dataloader.dataset must be a config, got BaseDetDataset'):
        build(config)


def test_a_missing_annotation_file_names_split_path_and_the_way_out(pair: tuple[dict, dict]) -> None:
    config = make_config(train=wrap('ConcatDataset', pair[0], dict(pair[1], ann_file='missing.json')), pipeline=TEST)
    config.val_dataloader = config.test_dataloader
    with pytest.raises(FileNotFoundError, match='train split, .*/missing.json does not exist .*calibration.split=val'):
        build(config)


def test_a_missing_folder_of_a_set_without_annotation_file_is_named(pair: tuple[dict, dict]) -> None:
    train = dict(type=Folder, data_prefix=dict(img='nowhere/train'), metainfo=METAINFO)
    with pytest.raises(FileNotFoundError, match='train split, whose data set nowhere/train does not exist'):
        build(make_config(train=train, test=dict(pair[1], pipeline=TEST)))


def test_a_data_set_that_cannot_be_built_is_named(pair: tuple[dict, dict], tmp_path: Path) -> None:
    (tmp_path / 'a.json').write_text('{')
    for train in (pair[0], dict(pair[1], no_such_argument=1)):
        with pytest.raises(ValueError, match=f'train split, whose data set .*{train["ann_file"]} cannot be built'):
            build(make_config(train=train, test=dict(pair[1], pipeline=TEST)))


@pytest.mark.parametrize('how', ['empty file', 'filter', 'indices'])
def test_a_set_without_images_is_named(how: str, tmp_path: Path) -> None:
    ids = [] if how == 'empty file' else [1, 2]
    data = write_set(tmp_path, 'a', ids)
    changes = {'filter': dict(filter_cfg=dict(min_size=1000)), 'indices': dict(indices=0)}.get(how, {})
    test = dict(write_set(tmp_path, 'b', [1]), pipeline=TEST)
    with pytest.raises(
        ValueError, match='train split, and .*/a.json has none .after filter_cfg.*calibration.split=test'
    ):
        build(make_config(train=data | changes, test=test))
    both = make_config(train=wrap('ConcatDataset', data | changes, write_set(tmp_path, 'c', [5])), test=test)
    assert build(both).ids == ['c.json:5']


BROKEN = {
    'missing': (lambda path: path.unlink(), FileNotFoundError),
    'no picture': (lambda path: path.write_bytes(b'text'), ValueError),
    'empty': (lambda path: path.write_bytes(b''), ValueError),
}


@pytest.mark.parametrize(('damage', 'error'), BROKEN.values(), ids=BROKEN)
def test_an_image_that_cannot_be_read_is_named(
    damage: Any, error: type, pair: tuple[dict, dict], tmp_path: Path
) -> None:
    damage(tmp_path / 'a/3.png')
    message = 'image 3 of the train split, .*/a/3.png, cannot be loaded; .*image_ids or seed, .*calibration.split=test'
    with pytest.raises(error, match=message):
        build(make_config(train=pair[0], pipeline=TEST))


def test_a_pipeline_without_result_names_the_image(pair: tuple[dict, dict]) -> None:
    for last in (dict(type='LoadImageFromFile', ignore_empty=True), lambda results: None):
        config = make_config(train=dict(pair[0], data_prefix=dict(img='nowhere/')), test=dict(pair[0]))
        config.test_dataloader.dataset.pipeline = [last, *TEST[1:]]
        with pytest.raises(ValueError, match='image 3 of the train split, .*nowhere/3.png, .*None'):
            build(config)
    with pytest.raises(ValueError, match='comes out of the pipeline as dict without a data sample'):
        build(make_config(train=pair[0], pipeline=LOAD))


@pytest.mark.parametrize(
    ('size', 'colour', 'word'),
    [((48, 32), None, None), ((3, 2), None, 'tiny'), ((400, 9), None, 'tiny'), ((48, 32), 127, 'of one colour')],
)
@pytest.mark.parametrize('pad', [(), (dict(type='Pad', size=(96, 96), pad_val=dict(img=(114, 114, 114))),)], ids=len)
def test_degenerate_images_are_noted(
    size: tuple, colour: int | None, word: str | None, pad: tuple, tmp_path: Path
) -> None:
    data = write_set(tmp_path, 'a', [1], size=size)
    if colour is not None:
        cv2.imwrite(f'{tmp_path}/a/1.jpg', np.full((size[1], size[0], 3), colour, np.uint8))
        (tmp_path / 'a/1.jpg').rename(tmp_path / 'a/1.png')
    pipeline = [*LOAD, dict(type='Resize', scale=(96, 64), keep_ratio=True), *pad, PACK]
    notes = build(make_config(train=data, pipeline=pipeline)).notes
    assert len(notes) == (word is not None)
    if word is not None:
        assert notes[0].startswith(f'calibration image 1 is {word} ({size[0]}x{size[1]} pixels): ')
