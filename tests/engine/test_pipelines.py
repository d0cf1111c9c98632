"""What becomes of evaluation pipelines, and what a loader that finds no annotations leaves to the steps behind it."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from mmcv.transforms import LoadAnnotations as PlainLoadAnnotations
from mmcv.transforms import RandomFlip, TestTimeAug
from mmdet.datasets.transforms import FilterAnnotations, LoadAnnotations, LoadPanopticAnnotations, PackDetInputs
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import ConfigDict
from mmengine.config.lazy import LazyObject
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from erq_mm.engine.pipelines import LoadNoAnnotations, calibration_pipeline, read_images_like

PACK = dict(type='PackDetInputs')


pytestmark = pytest.mark.usefixtures('mmdet_scope')


class LoadDifficulty(LoadAnnotations):
    """A user's loader, which adds a key of its own."""

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        return results | {'difficulty': np.array([i['difficulty'] for i in results['instances']])}


@pytest.fixture
def image() -> dict[str, Any]:
    """A loaded image whose object has neither outline nor difficulty, and whose map is not there."""
    instance = dict(bbox=[1, 1, 2, 2], bbox_label=0, ignore_flag=0)
    picture = np.zeros((6, 9, 3), np.uint8)
    return dict(
        img=picture, img_shape=(6, 9), ori_shape=(6, 9), instances=[instance], seg_map_path='missing.png', img_id=1
    )


LOADERS = [
    'LoadAnnotations',
    'mmdet.LoadAnnotations',
    'mmcv.transforms.LoadAnnotations',
    'mmdet.datasets.transforms.loading.LoadAnnotations',
    'LoadTrackAnnotations',
    LoadAnnotations,
    PlainLoadAnnotations,
    LoadDifficulty,
    LazyObject('mmdet.datasets.transforms', 'LoadAnnotations'),
]


@pytest.mark.parametrize('kind', LOADERS, ids=str)
def test_a_loader_is_recognised_however_it_is_written(kind: Any, image: dict) -> None:
    with_mask = {} if kind is PlainLoadAnnotations or kind == 'mmcv.transforms.LoadAnnotations' else {'with_mask': True}
    step = ConfigDict(type=kind, with_bbox=True, with_seg=True, **with_mask)
    found = Compose(calibration_pipeline([step]))(image)
    assert len(found['gt_bboxes']) == len(found['gt_bboxes_labels']) == 0
    assert (found['gt_seg_map'] == 255).all() and found['gt_seg_map'].shape == (6, 9)
    assert ('gt_masks' in found) == bool(with_mask)


def test_a_panoptic_loader_gives_empty_masks_and_map(image: dict, monkeypatch) -> None:
    package = ModuleType('panopticapi')
    package.utils = ModuleType('panopticapi.utils')
    package.utils.rgb2id = lambda _: pytest.fail('read a map')
    monkeypatch.setitem(sys.modules, 'panopticapi', package)
    found = Compose(calibration_pipeline([dict(type=LoadPanopticAnnotations)]))(image)
    assert (len(found['gt_masks']), found['gt_masks'].height, found['gt_masks'].width) == (0, 6, 9)
    assert (found['gt_seg_map'] == 255).all()


def test_only_what_the_loader_would_load_is_there(image: dict) -> None:
    found = Compose(calibration_pipeline([dict(type='LoadAnnotations', with_label=False)]))(image)
    assert isinstance(found['gt_bboxes'], HorizontalBoxes)
    assert found['gt_ignore_flags'].dtype == bool
    assert not {'gt_bboxes_labels', 'gt_masks', 'gt_seg_map'} & set(found)


def test_a_loader_of_the_user_adds_its_own_keys(image: dict) -> None:
    assert Compose(calibration_pipeline([dict(type=LoadDifficulty)]))(image)['difficulty'].shape == (0,)


def test_a_loader_that_is_an_object_is_not_changed(image: dict) -> None:
    loader = LoadAnnotations(with_seg=True)
    found = Compose(calibration_pipeline([loader]))(image)
    assert (found['gt_seg_map'] == 255).all() and loader.with_seg


def test_steps_that_read_annotations_keep_the_image(image: dict) -> None:
    """The object is smaller than the filter allows, which drops a real image: mmdet's keep_empty=True does."""
    steps = [
        dict(type='LoadAnnotations', with_mask=True),
        dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4), by_mask=True),
        dict(type='Resize', scale=(18, 12)),
        dict(type='RandomCrop', crop_size=(8, 8), allow_negative_crop=True),
        dict(type='Pad', size=(16, 16)),
        PACK,
    ]
    image['instances'][0]['mask'] = [[1, 1, 2, 1, 2, 2]]
    assert Compose(steps)(dict(image)) is None
    packed = Compose(calibration_pipeline(steps))(image)
    assert packed['inputs'].shape == (3, 16, 16)
    assert len(packed['data_samples'].gt_instances) == 0


NESTED = [
    dict(type='RandomChoice', transforms=[[dict(type='LoadAnnotations', with_mask=True)]]),
    dict(type='RandomApply', transforms=dict(type='mmdet.LoadAnnotations', with_mask=True), prob=1.0),
    dict(type='RandomOrder', transforms=[dict(type='LoadAnnotations', with_mask=True)]),
    dict(
        type='RandomChoice',
        transforms=[[dict(type='RandomApply', transforms=[dict(type=LoadAnnotations, with_mask=True)], prob=1.0)]],
    ),
    dict(type='TestTimeAug', transforms=[[dict(type='LoadAnnotations', with_mask=True)]]),
]


@pytest.mark.parametrize('step', NESTED, ids=lambda step: step['type'])
def test_loaders_are_found_inside_other_steps(step: dict, image: dict) -> None:
    for written in (step, ConfigDict(step)):
        found = Compose(calibration_pipeline([written]))(dict(image))
        assert len(found['gt_masks']) == 0


def test_mapped_keys_and_branches_stay() -> None:
    mapped = dict(
        type='KeyMapper',
        mapping=dict(img='other', gt_bboxes=...),
        auto_remap=True,
        transforms=[dict(type='Resize', scale=(4, 4))],
    )
    branch = dict(type='MultiBranch', branch_field=['a'], a=[dict(type='LoadAnnotations'), PACK])
    adapted = calibration_pipeline([mapped, branch])
    assert adapted[0] == mapped
    assert [step['type'] for step in adapted[1]['a']] == [LoadNoAnnotations, 'PackDetInputs']


@pytest.mark.parametrize('kinds', [('TestTimeAug', 'RandomFlip'), (TestTimeAug, RandomFlip)], ids=str)
def test_test_time_augmentation_leaves_its_first_view_without_flip(kinds: tuple[Any, Any]) -> None:
    augmentation, flip = kinds
    scales = [dict(type='Resize', scale=(s, s)) for s in (8, 16)]
    flips = [dict(type=flip, prob=p) for p in (1.0, 0.0)]
    step = dict(type=augmentation, transforms=[scales, flips, [dict(type='LoadAnnotations')], [PACK]])
    resize, load, pack = calibration_pipeline([dict(type='LoadImageFromFile'), step])[1:]
    assert (resize, load['type'], pack) == (scales[0], LoadNoAnnotations, PACK)


def test_everything_else_stays_and_the_config_is_not_changed() -> None:
    pipeline = [
        ConfigDict(type='LoadImageFromFile', backend_args=None),
        ConfigDict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
        ConfigDict(type='Albu', transforms=[dict(type='ShiftScaleRotate', p=1.0)], keymap=dict(img='image')),
        FilterAnnotations(),
        ConfigDict(type='LoadAnnotations', with_mask=True),
        ConfigDict(type=PackDetInputs, meta_keys=('img_id', 'flip')),
    ]
    adapted = calibration_pipeline(pipeline)
    assert adapted[:4] == pipeline[:4] and adapted[5] == pipeline[5]
    assert isinstance(adapted[5].meta_keys, tuple)
    assert pipeline[4] == ConfigDict(type='LoadAnnotations', with_mask=True)


def test_names_are_found_in_the_scope_of_the_step() -> None:
    """LoadTrackAnnotations is known in mmdet only."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        (step,) = calibration_pipeline([dict(type='LoadTrackAnnotations', _scope_='mmdet')])
    assert step['type'] is LoadNoAnnotations


def test_images_are_read_by_the_backend_of_their_own_set() -> None:
    evaluation = [dict(type='LoadImageFromFile', to_float32=True, backend_args=dict(backend='petrel')), PACK]
    own = [dict(type='mmdet.LoadImageFromNDArray'), PACK]
    (load, pack) = read_images_like(evaluation, [dict(type='LoadImageFromFile', backend_args=dict(backend='lmdb'))])
    assert load == dict(type='LoadImageFromFile', to_float32=True, backend_args=dict(backend='lmdb')) and pack == PACK
    assert 'backend_args' not in read_images_like(evaluation, own)[0]
    assert read_images_like(evaluation, None) == read_images_like(evaluation, [PACK]) == evaluation


def test_an_unknown_step_is_left_to_mmengine() -> None:
    assert calibration_pipeline([dict(type='NoSuchStep')]) == [dict(type='NoSuchStep')]
    with pytest.raises(KeyError, match='NoSuchStep is not in'):
        TRANSFORMS.build(dict(type='NoSuchStep'))
