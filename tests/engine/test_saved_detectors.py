"""A saved detector gives the bits of the one that was quantized, through all doors of mmdet and in another process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hooks import EMAHook

import erq_mm
from erq_mm.engine.evaluation import build_parser, build_runner
from erq_mm.engine.quantizing import main as quantize
from erq_mm.nn import QuantLayer

from .test_inference import Keep
from .zoo import small_config, small_runner

QUANTIZATION = dict(type='ERQHook', recipe='erq', w_bits=3, a_bits=5, calibration=dict(num_images=2))


@pytest.fixture(scope='module', params=['.safetensors', pytest.param('.pth', marks=pytest.mark.slow)])
def saved(request, tiny_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    """A folder with the float config and checkpoint, the file, and the predictions of the run that made it."""
    folder = tmp_path_factory.mktemp('saved')
    path = folder / f'model{request.param}'
    config = small_config('faster-rcnn', tiny_shapes)
    config.default_hooks.quantization = QUANTIZATION | dict(save=str(path))
    runner = small_runner(config, folder)
    keep = Keep()
    runner.register_hook(keep)
    runner.test()
    # the config of those who get the file: the detector under its other name, and no hook
    config.default_hooks.pop('quantization')
    config.model = dict(config.model, type='QuantizedDetector', detector=config.model.type)
    config.dump(folder / 'quantized.py')
    return folder, path, keep.samples


def _assert_equal(found: list[DetDataSample], wanted: list[DetDataSample]) -> None:
    for sample, other in zip(found, wanted, strict=True):
        for field in ('bboxes', 'scores', 'labels'):
            assert torch.equal(sample.pred_instances[field], other.pred_instances[field])


def _evaluate(config: Path, checkpoint: Path, work_dir: Path, *arguments: str) -> list[DetDataSample]:
    line = [str(config), str(checkpoint), '--work-dir', str(work_dir), *arguments]
    runner = build_runner(build_parser().parse_args(line))
    keep = Keep()
    runner.register_hook(keep)
    runner.test()
    return keep.samples


def test_load_quantized(saved) -> None:
    _, path, wanted = saved
    model = erq_mm.load_quantized(path)
    assert not model.training and type(model).__name__ == 'FasterRCNN'
    _assert_equal([inference_detector(model, sample.img_path) for sample in wanted], wanted)
    assert model.dataset_meta['classes'] and model.cfg.model.type == 'FasterRCNN'


@pytest.mark.parametrize('config', ['quantized.py', 'config.py'])
def test_tools_test(saved, config: str, tmp_path: Path) -> None:
    """With a config that names the wrapper, and with the float one that the file was made of, whatever hook it has."""
    folder, path, wanted = saved
    _assert_equal(_evaluate(folder / config, path, tmp_path), wanted)


def test_init_detector(saved) -> None:
    folder, path, wanted = saved
    model = init_detector(str(folder / 'quantized.py'), str(path), device='cpu')
    _assert_equal([inference_detector(model, sample.img_path) for sample in wanted], wanted)
    again = init_detector(str(folder / 'quantized.py'), device='cpu', cfg_options={'model.checkpoint': str(path)})
    _assert_equal([inference_detector(again, sample.img_path) for sample in wanted], wanted)


def test_det_inferencer(saved) -> None:
    folder, path, wanted = saved
    inferencer = DetInferencer(str(folder / 'quantized.py'), str(path), device='cpu', show_progress=False)
    result = inferencer([sample.img_path for sample in wanted], return_datasamples=True, no_save_vis=True)
    _assert_equal(result['predictions'], wanted)


def test_test_time_augmentation(saved, tmp_path: Path) -> None:
    folder, path, _ = saved
    hook = folder / 'config.py', folder / 'random.pth', tmp_path, '--tta'
    with pytest.raises(ValueError, match='save without --tta'):
        _evaluate(*hook)
    wanted = _evaluate(*hook, '--cfg-options', 'default_hooks.quantization.save=None')
    _assert_equal(_evaluate(folder / 'quantized.py', path, tmp_path, '--tta'), wanted)


def test_another_process_in_another_folder(saved, tmp_path: Path) -> None:
    _, path, wanted = saved
    torch.save([sample.pred_instances.bboxes for sample in wanted], tmp_path / 'wanted.pt')
    (tmp_path / path.name).write_bytes(path.read_bytes())
    script = f"""
import torch
torch.set_num_threads({torch.get_num_threads()})
import erq_mm
from mmdet.apis import inference_detector
model = erq_mm.load_quantized({path.name!r})
wanted = torch.load('wanted.pt')
for image, boxes in zip({[sample.img_path for sample in wanted]!r}, wanted, strict=True):
    assert torch.equal(inference_detector(model, image).pred_instances.bboxes, boxes)
print('equal')
"""
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ['equal'], done.stderr


def test_averaging_hooks_find_what_they_expect(saved, tmp_path: Path) -> None:
    folder, path, wanted = saved
    line = [str(folder / 'quantized.py'), str(path), '--work-dir', str(tmp_path)]
    runner = build_runner(build_parser().parse_args(line))
    keep = Keep()
    runner.register_hook(EMAHook())
    runner.register_hook(keep)
    runner.test()
    _assert_equal(keep.samples, wanted)


def test_tools_quantize(saved, tmp_path: Path, capsys) -> None:
    folder, path, wanted = saved
    out = tmp_path / f'new/model{path.suffix}'
    arguments = [str(folder / 'config.py'), str(folder / 'random.pth'), '--out', str(out)]
    quantize(None, [*arguments, '--cfg-options', 'default_hooks.quantization.save=None'])
    assert 'all quantized layers' in capsys.readouterr().out
    model = erq_mm.load_quantized(out)
    _assert_equal([inference_detector(model, sample.img_path) for sample in wanted], wanted)
    with pytest.raises(ValueError, match='quantized'):
        quantize(None, [arguments[0], str(out), '--out', str(tmp_path / 'again.pth')])


def test_float_and_quantized_are_not_confused(saved, tmp_path: Path) -> None:
    folder, path, _ = saved
    config = Config.fromfile(folder / 'config.py')
    with pytest.raises(ValueError, match='is a quantized model, the model of the config is float'):
        init_detector(config, str(path), device='cpu')
    with pytest.raises(ValueError, match='this checkpoint is float'):
        init_detector(str(folder / 'quantized.py'), str(folder / 'random.pth'), device='cpu')
    with pytest.raises(ValueError, match='leave --recipe out'):
        _evaluate(folder / 'quantized.py', path, tmp_path, '--recipe', 'erq_w4a4')
    waiting = MODELS.build(Config.fromfile(folder / 'quantized.py').model)
    with pytest.raises(RuntimeError, match='FasterRCNN.* has no weights: load its file'):
        waiting(torch.zeros(1, 3, 32, 32))
    other = Config.fromfile(folder / 'quantized.py')
    other.model.roi_head.bbox_head.num_classes += 1
    with pytest.raises(ValueError, match=r'(?s)fc_cls: linear .* it was saved with|\(it was saved with \d classes\)'):
        init_detector(other, str(path), device='cpu')


def test_what_a_config_in_a_file_names_is_not_imported(saved, tmp_path: Path) -> None:
    from erq_mm.export.checkpoint import load_record, save_quantized

    _, path, _ = saved
    model = erq_mm.load_quantized(path)
    record, _ = load_record(path)
    marker = tmp_path / 'was_here'
    for kind in ('os.system', 'subprocess.check_call', 'antigravity.geohash', 'pathlib.Path'):
        config = dict(record.config)
        config['model'] = config['model'] | {'neck': {'type': kind, 'args': [f'touch {marker}']}}
        save_quantized(model, tmp_path / 'evil.safetensors', config=config)
        with pytest.raises(ValueError, match=f'model.neck.type = {kind!r}, which no registry knows'):
            erq_mm.load_quantized(tmp_path / 'evil.safetensors')
    assert not marker.exists()


def test_the_layers_are_quantized(saved) -> None:
    model = erq_mm.load_quantized(saved[1])
    layers = [module for module in model.modules() if isinstance(module, QuantLayer)]
    assert layers and all(layer.has_quantized_weight and layer.weight_spec.bits in (3, 8) for layer in layers)
    assert all(layer.input_quantizer.is_active for layer in layers)
