"""Grid files: what they expand to, and errors that name the thing, its value and the way out before any cell runs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from erq_mm.benchmark.cells import Cell
from erq_mm.benchmark.choices import choose_recipe
from erq_mm.benchmark.detectors import Detector
from erq_mm.benchmark.named import DEMO, IMAGENET, TEST_BOXES
from erq_mm.benchmark.published import TABLES, Published
from erq_mm.benchmark.study import build_study, load_study
from erq_mm.engine.image_sets import leaf_datasets

from ..conftest import ROOT

STEPS = [{'type': 'fit_activations'}, {'type': 'fit_weights'}]
SHIPPED = sorted((ROOT / 'configs/benchmark').glob('*.py'))


def build(**values: object) -> object:
    return build_study('test', {'recipes': ['rtn', 'repq'], 'detectors': ['mask']} | values, ROOT)


@pytest.mark.parametrize(
    ('values', 'parts'),
    [
        ({'recipies': ['rtn']}, ["'recipies'", "did you mean 'recipes'"]),
        ({'recipes': ['repqq']}, ["'repqq'", "did you mean 'repq'", "'rtn'"]),
        ({'recipes': [{'type': 'erq', 'lamda': 1.0}]}, ['lamda']),
        ({'recipes': [{'type': 'erq', 'rounding': 'upwards'}]}, ['upwards', 'greedy']),
        ({'recipes': [{'type': 'erq', 'rounding': 'released', 'k': 3}]}, ['released', 'k=3']),
        ({'recipes': [{'steps': [{'type': 'fit_weight'}], 'label': 'mine'}]}, ["'fit_weight'"]),
        ({'recipes': ['rtn', {'type': 'rtn'}]}, ["'rtn'", 'twice', 'label']),
        ({'recipes': []}, ['nothing to run']),
        ({'bits': ['W9A4']}, ['W9A4', '9']),
        ({'bits': ['4,4']}, ["'4,4'", 'W4A4']),
        ({'bits': 'W4A4'}, ["'W4A4'", 'list']),
        ({'bits': []}, ['bits is empty']),
        ({'images': [0]}, ['positive', '0']),
        ({'images': [True]}, ['True']),
        ({'seeds': [-1]}, ['-1']),
        ({'test_images': 0}, ['test_images', 'positive integer', '0']),
        ({'test_images': '1000'}, ["'1000'"]),
        ({'test_images': 9, 'detectors': ['deit-s']}, ['test_images=9', "['mask', 'cascade', ", "'deit-s'"]),
        ({'test_images': 9, 'detectors': [{'config': 'a', 'checkpoint': 'b'}]}, ["'a'", 'another grid']),
        ({'scopes': ['linear']}, ["'linear'", "'linears'"]),
        ({'detectors': ['mask', 'mask']}, ["'mask'", 'twice']),
        ({'detectors': ['masc']}, ["'masc'", "did you mean 'mask'"]),
        ({'detectors': [{'config': 'a.py'}]}, ['checkpoint']),
        ({'detectors': [{'config': 'a', 'checkpoint': 'b', 'options': ['x']}]}, ['key=value', "'x'"]),
        ({'baseline': 'erq'}, ["'erq'", 'float']),
        ({'columns': ['boxes']}, ["'boxes'", "'box'"]),
        ({'figures': ['curves']}, ["'curves'", "'curve'"]),
        ({'analyses': ['proxies']}, ["'proxies'", "'proxy'"]),
        ({'published': 'cocos'}, ["'cocos'", "'coco'"]),
        ({'image': 'publishd'}, ["'publishd'", "did you mean 'published'"]),
        ({'image': 'published', 'recipes': [{'steps': STEPS, 'label': 'mine'}]}, ["'mine' of steps takes no image"]),
        ({'curve': {'labell': 'k'}}, ["'labell'", "'label'"]),
    ],
)
def test_bad_grids_are_refused(values: dict, parts: list[str]) -> None:
    with pytest.raises(ValueError) as raised:
        build(**values)
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    config = str(ROOT / 'configs/shapes/mask-rcnn_swin-mini_shapes.py')
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        build(detectors=[{'config': config, 'checkpoint': 'nowhere.pth'}])
    with pytest.raises(FileNotFoundError, match='nowhere.py'):
        build(detectors=[{'config': 'nowhere.py', 'checkpoint': 'nowhere.pth'}])
    with pytest.raises(FileNotFoundError, match='configs/benchmark'):
        load_study(tmp_path / 'nowhere.py', {}, ROOT)


def test_too_few_images_for_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('erq_mm.benchmark.choices.least_images', lambda choice: 8 if choice.label == 'repq' else 1)
    with pytest.raises(ValueError, match=r"'repq' needs at least 8 calibration images and the .* images=\[4, 16\]"):
        build(images=[4, 16])
    assert build(images=[8, 16]).images == (8, 16)


def test_errors_name_the_grid_file(tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text("recipes = ['rtn']\nbit = ['W4A4']\n")
    with pytest.raises(ValueError, match=r"mine.py: unknown key 'bit', did you mean 'bits'"):
        load_study(tmp_path / 'mine.py', {}, ROOT)


def test_a_grid_is_the_product_of_its_lists_led_by_float() -> None:
    study = build(bits=['W4A4', 'W3A8'], images=[1, 2, 4], seeds=[0, 5], scopes=['linears', 'all'])
    cells = study.cells()
    assert len(cells) == 1 + 2 * 2 * 3 * 2 * 2
    assert cells[0].recipe is None
    assert {(c.w_bits, c.a_bits) for c in cells[1:]} == {(4, 4), (3, 8)}
    assert len({cell.key for cell in cells}) == len(cells)


def test_equal_cells_of_different_studies_have_one_key() -> None:
    """Defaults written out are the same cell; anything that changes the result is another one."""
    by_name = build(recipes=['erq']).cells()[1]
    spelt_out = build(recipes=[{'type': 'erq', 'k': 1, 'label': 'x'}]).cells()[1]
    assert by_name.key.split('-')[-1] == spelt_out.key.split('-')[-1]
    others = [
        build(recipes=[{'type': 'erq', 'k': 2}]),
        build(recipes=['erq'], seeds=[1]),
        build(recipes=['erq'], images=[2]),
    ]
    assert by_name.key.split('-')[-1] not in {study.cells()[1].key.split('-')[-1] for study in others}


def test_the_float_cell_does_not_depend_on_the_quantization() -> None:
    assert build(bits=['W4A4']).cells()[0].key == build(bits=['W3A3'], images=[4], seeds=[2]).cells()[0].key


def test_a_generated_test_set_replaces_the_demos_own_and_never_shares_cells() -> None:
    (demo,), study = build().detectors, build(test_images=1000)
    (detector,) = study.detectors
    config, folder = detector.load_config(), os.path.relpath(ROOT / 'data/shapes-test-1000')
    (test,) = leaf_datasets(config.test_dataloader.dataset)
    assert (test.data_root, test.data_prefix.img, test.ann_file) == (f'{folder}/', 'test/', TEST_BOXES)
    assert config.test_evaluator.ann_file == f'{folder}/{TEST_BOXES}'
    assert all(option.startswith('test_') for option in set(detector.options) - set(demo.options))  # calibration stays
    assert detector.name == 'mask' and detector.title == 'Mask R-CNN Swin-mini, 1,000 test images'
    assert demo.digest() != detector.digest()
    cell = study.cells()[1]
    assert cell.name.startswith('mask-test1000_rtn') and Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


def test_a_generated_test_set_of_classes_replaces_the_demos_own() -> None:
    (detector,) = build(detectors=['deit'], test_images=5970).detectors
    dataset = detector.load_config().test_dataloader.dataset
    folder = os.path.relpath(ROOT / 'data/digits-test-5970')
    assert (dataset.data_root, dataset.data_prefix) == (f'{folder}/', 'test')
    assert detector.title == 'DeiT-mini, 5,970 test images'


def test_a_demos_images_are_drawn_beside_each_other(tmp_path: Path) -> None:
    made = []
    demo = replace(DEMO['mask'], make=made.append, make_test=lambda *arguments: made.append(arguments))
    demo.draw(tmp_path, None)
    demo.draw(tmp_path, 9)
    assert made == 2 * [tmp_path / 'data/shapes'] + [(tmp_path / 'data/shapes-test-9', 9)]


def test_a_detector_is_what_its_config_and_options_say() -> None:
    mask = build().detectors[0]
    changed = Detector(mask.name, mask.config, mask.checkpoint, (*mask.options, 'model.rpn_head.feat_channels=32'))
    assert changed.load_config().model.rpn_head.feat_channels == 32
    assert changed.digest() != mask.digest()


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_shipped_grids_are_valid(path: Path) -> None:
    if path.stem.startswith('imagenet_'):
        pytest.importorskip('timm', reason='timm is optional')
    study = load_study(path, {}, ROOT)
    names = {detector.name for detector in study.detectors}
    if path.stem.startswith('imagenet_'):
        assert names <= set(IMAGENET) and study.images[0] in (4, 32) and [m.key for m in study.metrics] == ['top1']
    else:
        of_one = dict.fromkeys(('seeds', 'serq', 'serq_one_image'), {'mask'})  # of both they are long
        shipped = of_one | {'digits': {'deit', 'swin'}}
        assert names == shipped.get(path.stem, {'mask', 'cascade'})
    assert study.cells()


def test_published_figures_have_sources_and_stay_in_their_detectors_columns() -> None:
    for name, table in TABLES.items():
        columns = {column['name'] for column in table['columns']}
        for row in table['rows']:
            assert row['source'] and set(row['values']) <= columns, (name, row)
    published = Published('coco', 'cascade')
    texts = published.values({'recipe': 'erq', 'bits': 'W4A4', 'label': 'erq', 'images': 16})
    assert texts == ['47.9 / 42.1 [1]', '50.0 / 43.6 [1]']
    assert published.values({'recipe': 'erq', 'bits': 'W3A3'}) == ['', '']
    assert 'Table 3, 1 calibration image' in published.notes()[0]


def test_a_fast_name_means_the_preset() -> None:
    named, written = (
        choose_recipe('qdrop_fast'),
        choose_recipe({'type': 'qdrop', 'preset': 'fast', 'label': 'qdrop_fast'}),
    )
    assert named == written and named.recipe == written.recipe
    assert choose_recipe({'type': 'qdrop_fast', 'iterations': 9}).label == 'qdrop preset=fast iterations=9'
    with pytest.raises(ValueError, match="unknown recipe 'qdrop_quick', did you mean 'qdrop.*'aphq_fast'"):
        choose_recipe('qdrop_quick')


def test_a_grid_of_the_image_holds_for_every_recipe_that_says_none() -> None:
    """Labels do not repeat it, and cells of the published one have the names of those that had no choice."""
    entries = ['rtn', {'type': 'erq', 'rounding': None}, {'type': 'repq', 'image': 'pixels', 'label': 'exact'}]
    exact, published = build(recipes=entries), build(recipes=entries, image='published')
    assert [choice.label for choice in exact.recipes] == [choice.label for choice in published.recipes]
    cells = [cell for cell in published.cells() if cell.recipe is not None]
    assert [cell.decisive()['recipe'].get('image') for cell in cells] == [None, None, 'pixels']
    assert [cell.name.split('_w4a4')[0] for cell in cells] == [
        'mask_rtn', 'mask_erq-rounding=None', 'mask_repq-image=pixels',
    ]  # fmt: skip
    others = [cell for cell in exact.cells() if cell.recipe is not None]
    assert all(cell.decisive()['recipe']['image'] == 'pixels' for cell in others)
    assert {cell.key for cell in cells}.isdisjoint(cell.key for cell in others[:2])
