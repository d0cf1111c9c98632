"""Calibration images out of small sets: nested ones, filters, file backends, classes of the user, pipelines."""

import gc
import json
import random
import weakref
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset, ConcatDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyObject
from mmengine.fileio import LocalBackend, register_backend

from erq_mm.engine.image_sets import leaf_datasets, set_names

from .small_sets import LOAD, PACK, TEST, Folder, build, coco_set, make_config, wrap, write_set

pytestmark = pytest.mark.usefixtures('mmdet_scope')

# Nested sets

EVERYTHING = ['a.json:1', 'a.json:2', 'a.json:3', 'a.json:4', 'b.json:4', 'b.json:5', 'b.json:6']
NESTINGS = {
    'concat': lambda a, b: wrap('ConcatDataset', a, b),
    'repeat of concat': lambda a, b: wrap('RepeatDataset', wrap('ConcatDataset', a, b)),
    'concat of repeat': lambda a, b: wrap('ConcatDataset', wrap('RepeatDataset', a), b),
    'mix of concat': lambda a, b: wrap('MultiImageMixDataset', wrap('ConcatDataset', a, b)),
    'concat of balanced and concat': lambda a, b: wrap(
        'ConcatDataset', wrap('ClassBalancedDataset', a), wrap('ConcatDataset', b)
    ),
    'a set twice': lambda a, b: wrap('ConcatDataset', a, wrap('RepeatDataset', a), b, dict(a, pipeline=[])),
}


@pytest.mark.parametrize('nest', NESTINGS.values(), ids=NESTINGS)
def test_all_images_of_nested_sets_are_there_once(nest: Any, pair: tuple[dict, dict]) -> None:
    images = build(make_config(train=nest(*pair), pipeline=TEST), num_images=7)
    assert sorted(images.ids) == EVERYTHING
    for image_id, sample in zip(images.ids, images.samples, strict=True):
        assert sample['data_samples'].img_id == image_id
        assert Path(sample['data_samples'].img_path).stem == image_id.partition(':')[2]
    with pytest.raises(ValueError, match='a.json, .*b.json has 7 with objects'):
        build(make_config(train=nest(*pair), pipeline=TEST), num_images=8)


@pytest.mark.parametrize('kind', ['RepeatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset'])
def test_a_single_wrapped_set_gives_the_same_images_as_alone(kind: str, pair: tuple[dict, dict]) -> None:
    alone = build(make_config(train=pair[0], pipeline=TEST), num_images=3)
    wrapped = build(make_config(train=wrap(kind, pair[0]), pipeline=TEST), num_images=3)
    assert wrapped.ids == alone.ids == [3, 4, 2]  # RandomState(0).permutation(4) is [2, 3, 1, 0]
    for one, other in zip(alone.samples, wrapped.samples, strict=True):
        assert torch.equal(one['inputs'], other['inputs'])


def test_explicit_ids_of_several_sets(pair: tuple[dict, dict]) -> None:
    config = make_config(train=wrap('ConcatDataset', *pair), pipeline=TEST)
    assert build(config, image_ids=['b.json:4', 5, 'a.json:1']).ids == ['b.json:4', 'b.json:5', 'a.json:1']
    assert build(config, image_ids='b.json:6').ids == ['b.json:6']
    with pytest.raises(ValueError, match='image id 4 is in several sets'):
        build(config, image_ids=[4])


@pytest.mark.parametrize('split', ['val', 'test'])
def test_several_evaluated_sets_go_through_their_own_pipelines(split: str, pair: tuple[dict, dict]) -> None:
    a, b = pair
    b = dict(b, test_mode=True, pipeline=[*LOAD, dict(type='Resize', scale=(96, 64)), PACK])
    config = make_config(**{split: wrap('ConcatDataset', dict(a, pipeline=TEST, test_mode=True), b)})
    images = build(config, evaluated=split, split=split, image_ids=['a.json:4', 'b.json:4'])
    assert [tuple(sample['inputs'].shape) for sample in images.samples] == [(3, 32, 48), (3, 64, 96)]


def test_leaves_are_the_configs_own_objects_and_other_keys_are_no_sets() -> None:
    leaf = dict(type='CocoDataset', dataset='of fruit', datasets=['a', 'b'])
    nested = ConfigDict(wrap('RepeatDataset', wrap('ConcatDataset', leaf)))
    (found,) = leaf_datasets(nested)
    assert found is nested.dataset.datasets[0]


def test_names_are_the_shortest_ends_that_differ() -> None:
    assert set_names(['x/a.json', 'x/b.json']) == ['a.json', 'b.json']
    assert set_names(['x/train/a.json', 'y/train/a.json', 'b.json']) == ['x/train/a.json', 'y/train/a.json', 'b.json']
    assert set_names(['a.json', 'x/a.json']) == ['a.json', 'x/a.json']
    assert set_names(['x/a.json', 'x/b.json', 'x/a.json']) == ['a.json#1', 'b.json', 'a.json#2']


def test_sets_of_equal_files_are_told_apart(tmp_path: Path) -> None:
    sets = [write_set(tmp_path / folder, 'train', [1, 2]) for folder in ('x', 'y')]
    thirds = [dict(sets[1], indices=[0]), dict(sets[1], indices=[1])]
    images = build(make_config(train=wrap('ConcatDataset', *sets), pipeline=TEST), num_images=4)
    assert sorted(images.ids) == ['x/train.json:1', 'x/train.json:2', 'y/train.json:1', 'y/train.json:2']
    images = build(make_config(train=wrap('ConcatDataset', *thirds), pipeline=TEST), num_images=2)
    assert sorted(images.ids) == ['train.json#1:1', 'train.json#2:2']


# What the data set's own config says


def test_the_filter_and_the_subset_of_a_training_set_are_kept(tmp_path: Path) -> None:
    data = write_set(tmp_path, 'a', [1, 2, 3, 4, 5], empty=[3])
    content = json.loads((tmp_path / 'a.json').read_text())
    content['images'][0].update(width=3, height=2)
    content['annotations'][0].update(bbox=[0, 0, 2, 1])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    unfiltered = build(make_config(train=data, pipeline=TEST), num_images=4)
    assert sorted(unfiltered.ids) == [1, 2, 4, 5]
    filtered = dict(data, filter_cfg=dict(filter_empty_gt=True, min_size=32), indices=2)
    assert sorted(build(make_config(train=filtered, pipeline=TEST), num_images=2).ids) == [2, 4]
    with pytest.raises(ValueError, match=r'ids \[1\] are not in .*a.json \(2 images'):
        build(make_config(train=filtered, pipeline=TEST), image_ids=[1])


def test_evaluated_sets_filter_as_they_are_configured(tmp_path: Path) -> None:
    data = write_set(tmp_path, 'a', [1, 2, 3], empty=[2])
    data |= dict(pipeline=TEST, filter_cfg=dict(filter_empty_gt=True))
    for test_mode, ids in ((True, [1, 2, 3]), (False, [1, 3])):
        config = make_config(test=dict(data, test_mode=test_mode))
        assert build(config, split='test', image_ids=ids).ids == ids
    with pytest.raises(ValueError, match=r'ids \[2\] are not in'):
        build(config, split='test', image_ids=[2])


class Vault(LocalBackend):
    """A file backend: `vault://` is a folder that only it knows."""

    folder = Path()

    def _place(self, filepath: str) -> str:
        return str(self.folder / str(filepath).removeprefix('vault://'))

    def get(self, filepath: str) -> bytes:
        return super().get(self._place(filepath))

    def get_local_path(self, filepath: str) -> AbstractContextManager[str]:
        return nullcontext(self._place(filepath))


register_backend('vault', Vault, prefixes='vault', force=True)


@pytest.mark.parametrize('by', ['prefix', 'arguments'])
def test_training_sets_behind_a_file_backend(by: str, tmp_path: Path, monkeypatch) -> None:
    """The backend is told by the prefix of the paths, or by backend_args, which the test set does not have."""
    monkeypatch.setattr(Vault, 'folder', tmp_path)
    write_set(tmp_path, 'a', [1, 2])
    data = coco_set(Path('vault://' if by == 'prefix' else ''), 'a', data_root='')
    if by == 'prefix':
        data |= dict(ann_file='vault://a.json', data_prefix=dict(img='vault://a/'))
    else:
        load = dict(type='mmcv.LoadImageFromFile', backend_args=dict(backend='vault'))
        data |= dict(backend_args=dict(backend='vault'), pipeline=[load, LOAD[1], PACK])
    config = make_config(train=data, test=dict(write_set(tmp_path, 'b', [7]), pipeline=TEST))
    assert build(config, num_images=2).ids == [2, 1]
    monkeypatch.setattr(Vault, 'folder', tmp_path / 'emptied')
    with pytest.raises(FileNotFoundError, match='train split, whose annotation file .*a.json does not exist'):
        build(config)


# Data sets of users


class WithoutIds(Folder):
    """Records have no `img_id`."""

    def load_data_list(self) -> list[dict]:
        return [{'img_path': record['img_path']} for record in super().load_data_list()]


class OwnRecords(Folder):
    """Makes records on demand, and decides itself how it keeps them."""

    def __init__(self, data_prefix: dict, metainfo: dict, pipeline: list) -> None:
        super().__init__(data_prefix=data_prefix, metainfo=metainfo, pipeline=pipeline)

    def get_data_info(self, idx: int) -> dict:
        return super().get_data_info(idx) | {'img_id': np.int64(100 + idx)}


class NoBaseClass:
    """Has nothing of mmengine's data sets but the two methods."""

    def __init__(self, data_prefix: dict, pipeline: list, **unused: Any) -> None:
        self.inner = Folder(data_prefix=data_prefix, pipeline=pipeline)

    def __len__(self) -> int:
        return len(self.inner)

    def get_data_info(self, index: int) -> dict:
        return self.inner.get_data_info(index)

    def __getitem__(self, index: int) -> dict:
        return self.inner[index]


KINDS = [
    (Folder, ['1', '2', '30']),
    (WithoutIds, [0, 1, 2]),
    (OwnRecords, [100, 101, 102]),
    (NoBaseClass, ['1', '2', '30']),
]


@pytest.mark.parametrize(('kind', 'ids'), KINDS, ids=lambda value: getattr(value, '__name__', ''))
def test_data_sets_of_the_user(kind: type, ids: list, tmp_path: Path) -> None:
    write_set(tmp_path, 'a', [1, 2, 30])
    data = dict(type=kind, data_prefix=dict(img=f'{tmp_path}/a/'), metainfo=dict(classes=('thing',)), pipeline=TEST)
    images = build(make_config(train=data, test=coco_set(tmp_path, 'a', pipeline=TEST)), num_images=3)
    assert sorted(images.ids) == ids
    json.dumps(images.ids)


def test_the_type_of_a_set_may_be_imported_lazily(pair: tuple[dict, dict]) -> None:
    kinds = [LazyObject('mmdet.datasets', 'CocoDataset'), CocoDataset]
    train = dict(type=ConcatDataset, datasets=[data | dict(type=kind) for data, kind in zip(pair, kinds, strict=True)])
    pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_mask=True), dict(type=PackDetInputs)]
    assert (
        sorted(build(make_config(train=train, test=dict(pair[0], pipeline=pipeline)), num_images=7).ids) == EVERYTHING
    )


def test_records_are_freed_with_the_last_image(pair: tuple[dict, dict], monkeypatch) -> None:
    built: list[weakref.ref] = []
    load = CocoDataset.load_data_list
    monkeypatch.setattr(CocoDataset, 'load_data_list', lambda self: built.append(weakref.ref(self)) or load(self))
    monkeypatch.setattr(CocoDataset, '_serialize_data', lambda self: pytest.fail('records were pickled'))
    images = build(make_config(train=wrap('ConcatDataset', *pair), pipeline=TEST), num_images=7)
    gc.collect()
    assert len(images.samples) == 7 and [ref() for ref in built] == [None, None]


# Pipelines


def test_annotations_are_not_needed(tmp_path: Path) -> None:
    """Neither outlines nor a segmentation map, and the step that filters objects keeps the image."""
    data = write_set(tmp_path, 'a', [1, 2])
    content = json.loads((tmp_path / 'a.json').read_text())
    for annotation in content['annotations']:
        annotation.pop('segmentation')
    (tmp_path / 'a.json').write_text(json.dumps(content))
    loader = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True)
    pipeline = [LOAD[0], dict(type='Resize', scale=(96, 64)), loader]
    pipeline += [dict(type='FilterAnnotations', min_gt_bbox_wh=(500, 500), by_mask=True), PACK]
    train = data | dict(data_prefix=dict(img='a/', seg='maps/'))
    images = build(make_config(train=train, test=dict(data, pipeline=pipeline)), num_images=2)
    assert sorted(images.ids) == [1, 2]
    assert all(sample['inputs'].shape == (3, 64, 96) for sample in images.samples)


def test_ids_do_not_depend_on_what_the_pipeline_packs(pair: tuple[dict, dict]) -> None:
    pipeline = [*LOAD, dict(type='PackDetInputs', meta_keys=('img_path',))]
    images = build(make_config(train=pair[0], pipeline=pipeline), num_images=2)
    assert [sample['data_samples'].img_id for sample in images.samples] == images.ids == [3, 4]


RANDOM = [
    *LOAD,
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=(s, s))] for s in range(16, 64)]),
    dict(type='PhotoMetricDistortion'),
    PACK,
]


def test_random_steps_follow_the_seed_and_leave_the_generators_alone(pair: tuple[dict, dict]) -> None:
    config = make_config(train=pair[0], pipeline=RANDOM)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    first = build(config, image_ids=[1, 2, 3])
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    again, other = build(config, image_ids=[1, 2, 3]), build(config, image_ids=[1, 2, 3], seed=1)
    same = [torch.equal(a['inputs'], b['inputs']) for a, b in zip(first.samples, again.samples, strict=True)]
    assert all(same)
    assert first.samples[0]['inputs'].shape != other.samples[0]['inputs'].shape


def test_the_pipeline_is_that_of_the_loader_which_is_evaluated(pair: tuple[dict, dict]) -> None:
    def evaluated(width: int) -> dict:
        return dict(pair[1], test_mode=True, pipeline=[*LOAD, dict(type='Resize', scale=(width, width)), PACK])

    def width_of(config: Config, evaluated: str) -> int:
        return build(config, evaluated).samples[0]['inputs'].shape[-1]

    both = make_config(train=pair[0], val=evaluated(20), test=evaluated(30))
    assert (width_of(both, 'val'), width_of(both, 'test')) == (20, 30)
    only_val = make_config(train=pair[0], val=evaluated(20))
    only_val.test_dataloader = None
    assert width_of(only_val, 'val') == width_of(only_val, 'test') == 20
    assert width_of(make_config(train=pair[0], test=evaluated(30)), 'val') == 30
