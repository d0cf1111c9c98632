"""Real evaluations through mmengine's Runner."""

import copy
import functools
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from erq_mm.calibration.reconstruction.trainer import UnitTrainer
from erq_mm.calibration.steps import STEPS
from erq_mm.core.quantizers import Quantizer
from erq_mm.engine import quantization as quantization_module
from erq_mm.engine.hook import ERQHook, unwrap
from erq_mm.nn import QuantLayer

from ..conftest import ROOT
from .conftest import CHECKPOINT, CONFIG

QUANTIZATION = 'default_hooks.quantization'


def test_quantized_evaluation_writes_its_report(make_runner, read_report, tiny_shapes) -> None:
    runner = make_runner('--recipe', 'erq_w3a4')
    metrics = runner.test()
    assert metrics['coco/bbox_mAP'] > 0.1
    report = read_report()
    assert (report['recipe'], report['w_bits'], report['a_bits'], report['scope']) == ('erq', 3, 4, 'linears')
    assert len(report['calibration']['image_ids']) == 1
    assert report['versions']['mmdet'].startswith('3.')
    assert {'fit_activations', 'collect_statistics', 'aqer', 'wqer', 'total'} <= set(report['seconds'])
    names = {layer['name'] for layer in report['layers']}
    assert 'roi_head.bbox_head.shared_fcs.0' in names
    assert 'backbone.stages.2.blocks.3.attn.w_msa.query_key' in names
    assert {'roi_head.mask_head.upsample', 'rpn_head.rpn_conv'} <= {layer['name'] for layer in report['float_layers']}
    model = unwrap(runner.model)
    assert not model.training
    assert all(q.is_active for q in model.modules() if isinstance(q, Quantizer))
    assert all(layer.has_quantized_weight for layer in model.modules() if isinstance(layer, QuantLayer))


def test_a_second_evaluation_does_not_calibrate_again(make_runner, monkeypatch) -> None:
    runner = make_runner('--recipe', 'rtn')
    first = runner.test()
    monkeypatch.setattr(quantization_module, 'quantize_', lambda *a, **k: pytest.fail('calibrated twice'))
    runner._has_loaded = True
    assert runner.test_loop.run() == first


@pytest.mark.slow  # tests/calibration/test_reconstruction.py kills and resumes by default
def test_a_trained_recipe_resumes_from_its_folder(make_runner, read_report, tmp_path, monkeypatch) -> None:
    config = tmp_path / 'qdrop.py'
    config.write_text(f"""
_base_ = ['{CONFIG}']
default_hooks = dict(quantization=dict(
    type='ERQHook', recipe=dict(type='qdrop', preset='fast', iterations=1, layer_iterations=1, images=1),
    work_dir={str(tmp_path / 'units')!r}))
""")
    first = make_runner(config=str(config)).test()
    report = read_report()
    assert len(report['reconstruction']) == 18
    assert all(unit['after'] <= unit['before'] for unit in report['reconstruction'])
    assert len(list((tmp_path / 'units').glob('reconstruction-*/*.pt'))) == 18
    monkeypatch.setattr(UnitTrainer, 'train', lambda *a: pytest.fail('trained again'))
    assert make_runner(config=str(config)).test() == first


def test_options_come_after_the_recipe(make_runner, read_report) -> None:
    options = (f'{QUANTIZATION}.w_bits=6', f'{QUANTIZATION}.calibration.num_images=2', f'{QUANTIZATION}.scope=all')
    make_runner('--recipe', 'repq_w3a4', options=options).test()
    report = read_report()
    assert (report['w_bits'], report['a_bits'], report['scope']) == (6, 4, 'all')
    assert len(report['calibration']['image_ids']) == 2
    layers = {layer['name']: layer for layer in report['layers']}
    assert layers['rpn_head.rpn_conv']['kind'] == 'conv'
    assert layers['roi_head.mask_head.convs.0.conv']['a_bits'] == 4  # the mask head saw rows
    left_float = {layer['name']: layer['reason'] for layer in report['float_layers']}
    tables = [name for name in left_float if name.endswith('relative_position_bias_table')]
    assert set(left_float) - set(tables) == {'roi_head.mask_head.upsample'}
    assert len(tables) == 10 and all('looked up or added' in left_float[name] for name in tables)


def test_without_a_recipe_it_is_mmdets_evaluation(make_runner) -> None:
    ours = make_runner()
    reference = copy.deepcopy(ours.cfg)
    assert 'quantization' not in reference.default_hooks
    assert ours.test() == Runner.from_cfg(reference).test()


def test_calibration_does_not_depend_on_how_often_or_where(make_runner) -> None:
    """The same seed gives the same image and the same bytes."""
    states = []
    for _ in range(2):
        runner = make_runner('--recipe', 'erq')
        runner.test()
        states.append(unwrap(runner.model).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_test_time_augmentation(make_runner, read_report) -> None:
    """Boxes only: mmdet has no test-time augmentation of masks."""
    boxes_only = (
        'model.roi_head.mask_head=None',
        'model.roi_head.mask_roi_extractor=None',
        'test_evaluator.metric=bbox',
    )
    assert make_runner('--recipe', 'erq', '--tta', options=boxes_only).test()['coco/bbox_mAP'] > 0.1
    assert read_report()['recipe'] == 'erq'


def test_pictures_and_predictions_of_the_quantized_model(make_runner, tmp_path) -> None:
    make_runner('--recipe', 'erq', '--show-dir', 'painted', '--out', str(tmp_path / 'out.pkl')).test()
    assert (tmp_path / 'out.pkl').exists()
    assert len(list((tmp_path / 'work').glob('*/painted/*'))) == 4


def test_validation_loop_quantizes_too(make_runner, read_report) -> None:
    runner = make_runner('--recipe', 'erq')
    assert runner.val()['coco/bbox_mAP'] > 0.1
    assert read_report()['recipe'] == 'erq'


def test_training_with_the_hook_is_refused(make_runner) -> None:
    with pytest.raises(RuntimeError, match='ERQHook is for evaluation'):
        make_runner('--recipe', 'erq').call_hook('before_train')


def test_recipe_with_options_from_a_config_file(make_runner, read_report) -> None:
    config = str(ROOT / 'configs/ablation/mask-rcnn_swin-mini_ridge.py')
    make_runner(config=config).test()
    steps = {step['type']: step for step in read_report()['steps']}
    assert 'aqer' not in steps
    assert (steps['wqer']['ridge'], steps['wqer']['rounding']) == (True, None)


def test_explicit_image_ids(make_runner, read_report) -> None:
    make_runner('--recipe', 'rtn', options=(f'{QUANTIZATION}.calibration.image_ids=[3,7]',)).test()
    assert read_report()['calibration']['image_ids'] == [3, 7]


BAD_OPTIONS = [
    (f'{QUANTIZATION}.recipe=erk', ValueError, "unknown recipe 'erk'"),
    (f'{QUANTIZATION}.w_bits=1', ValueError, 'w_bits must be an integer from 2 to 8, got 1'),
    (f'{QUANTIZATION}.calibration.num_images=0', ValueError, 'at least one image, got num_images=0'),
    (f'{QUANTIZATION}.calibration.images=3', ValueError, 'quantization.calibration=.*images'),
    (f'{QUANTIZATION}.calibration.split=training', ValueError, "split must be one of .* got 'training'"),
    (f'{QUANTIZATION}.calibration.image_ids=[3,99]', ValueError, r'image ids \[99\] are not in .*instances_train.json'),
    (f'{QUANTIZATION}.calibration.num_images=50', ValueError, 'asks for 50 images .* has 8 with objects'),
    (f'{QUANTIZATION}.overrides.neck=float', ValueError, "override 'neck' matches no layer"),
    ('train_dataloader.dataset.ann_file=missing.json', FileNotFoundError, 'annotation file .*missing.json does not'),
    ('model.test_cfg.rpn.min_bbox_size=100000', ValueError, r'images \[\d+\] gave no proposals'),
]


@pytest.mark.parametrize(('option', 'error', 'message'), BAD_OPTIONS)
def test_bad_input_is_named_and_nothing_is_written(option, error, message, make_runner, tmp_path) -> None:
    with pytest.raises(error, match=message):
        make_runner('--recipe', 'erq', options=(option,)).test()
    assert not list(tmp_path.glob('work/*/*.json'))


def test_unwritable_report_path_is_found_before_calibration(make_runner, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quantization_module, 'quantize_', lambda *a, **k: pytest.fail('calibrated before checking'))
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='report cannot be written .* choose another path'):
        make_runner('--recipe', 'erq', options=(f'{QUANTIZATION}.report={tmp_path}/file/q.json',)).test()


def test_ctrl_c_in_mid_calibration_leaves_files_alone(make_runner, tmp_path, monkeypatch) -> None:
    before = hashlib.sha256(Path(CHECKPOINT).read_bytes()).hexdigest()
    report = tmp_path / 'report.json'
    report.write_text('{"older": "report"}')

    @functools.wraps(STEPS['wqer'].run)
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(STEPS, 'wqer', replace(STEPS['wqer'], run=interrupted))
    with pytest.raises(KeyboardInterrupt):
        make_runner('--recipe', 'erq', options=(f'{QUANTIZATION}.report={report}',)).test()
    assert hashlib.sha256(Path(CHECKPOINT).read_bytes()).hexdigest() == before
    assert report.read_text() == '{"older": "report"}'
    assert [p.name for p in tmp_path.iterdir() if 'report' in p.name] == ['report.json']


def _checkpoint(tmp_path: Path, change) -> str:
    state = torch.load(CHECKPOINT, weights_only=True)['state_dict']
    change(state)
    torch.save({'state_dict': state}, tmp_path / 'changed.pth')
    return str(tmp_path / 'changed.pth')


QKV = 'backbone.stages.0.blocks.0.attn.w_msa.qkv'
CHANGES = [
    (lambda s: s.pop(f'{QKV}.weight'), f'1 missing: {QKV}.weight'),
    (lambda s: s.update({f'{QKV}.lora': torch.zeros(1)}), f'1 unexpected: {QKV}.lora'),
    (lambda s: s.update({f'{QKV}.bias': torch.zeros(7)}), f'1 of another shape: {QKV}.bias'),
    (lambda s: s.update({f'{QKV}.input_quantizer.scale': torch.ones(())}), 'the checkpoint is quantized already'),
]


@pytest.mark.parametrize(('change', 'message'), CHANGES)
def test_a_wrong_checkpoint_is_an_error_with_the_keys(change, message, make_runner, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        make_runner('--recipe', 'erq', checkpoint=_checkpoint(tmp_path, change)).test()


def test_a_quantized_checkpoint_in_a_float_model_is_an_error(make_runner, tmp_path) -> None:
    change = CHANGES[-1][0]
    with pytest.raises(ValueError, match='is quantized .1 layers, .* and the model is float'):
        make_runner(checkpoint=_checkpoint(tmp_path, change)).test()


def test_nan_in_a_weight_names_the_layer(make_runner, tmp_path) -> None:
    def poison(state: dict) -> None:
        state[f'{QKV}.weight'][0, 0] = float('nan')

    with pytest.raises(FloatingPointError, match=f'NaN or infinity in {QKV}.weight'):
        make_runner('--recipe', 'erq', checkpoint=_checkpoint(tmp_path, poison)).test()


def test_unknown_keys_of_the_hook_are_refused() -> None:
    with pytest.raises(TypeError, match='wbits'):
        ERQHook(wbits=4)


@pytest.mark.parametrize('text', ['erk_w4a4', 'erq_w9a4', 'erq_w4a1'])
def test_recipe_argument_is_checked_at_once(text: str, make_runner, capsys) -> None:
    with pytest.raises(SystemExit):
        make_runner('--recipe', text)
    assert f'in {text!r}' in capsys.readouterr().err.replace('"', "'")


def test_a_calibration_unlike_the_test_images_is_told_of_in_the_report(
    make_runner, read_report, tiny_shapes, tmp_path
) -> None:
    """Training images of one colour: a range fitted to them clips most of what the first test batch brings."""
    shutil.copytree(tiny_shapes, tmp_path / 'plain')
    for path in (tmp_path / 'plain/train').iterdir():
        Image.new('RGB', Image.open(path).size, (120, 130, 110)).save(path)
    data = f'train_dataloader.dataset.data_root={tmp_path}/plain/'
    make_runner('--recipe', 'rtn_w4a4_deploy', options=(data,)).test()  # exact pixels clip nothing
    notes = read_report()['notes']
    (clipped,) = (note for note in notes if 'of their input at test time' in note)
    assert clipped.startswith('degenerate calibration (images [') and 'backbone.patch_embed.projection' in clipped
    assert any('colour' in note for note in notes)
