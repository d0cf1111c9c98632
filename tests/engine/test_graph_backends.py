"""A deployed detector detects what the simulated one does, whatever comes into it, and says what runs where."""

import copy
from typing import Any

import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

import erq_mm
from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.graph_backends import deploy_with_backend_, register_graph_backends

from ..export.onnx.conftest import ENGINES, without_products

CONFIGS = {'mask': 'mask-rcnn_swin-mini', 'cascade': 'cascade-mask-rcnn_swin-mini'}
KERNEL_GRIDS = {'type': 'rtn', 'image': 'published'}  # exact pixels have a scale per channel, which no kernel has
PARTS = {
    'mask': ['backbone_neck', 'rpn_head', 'bbox_head', 'mask_head'],
    'cascade': ['backbone_neck', 'rpn_head', *(f'{kind}_head.{n}' for kind in ('bbox', 'mask') for n in range(3))],
}


# compiling four graphs takes OpenVINO a while
@pytest.fixture(params=[ENGINES[0], pytest.param(ENGINES[1], marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f'{request.param} is not installed')
    return request.param


def load(name: str) -> nn.Module:
    from mmdet.apis import init_detector

    from ..conftest import ROOT

    folder, file = ROOT / 'configs/shapes', CONFIGS[name]
    return init_detector(str(folder / f'{file}_shapes.py'), str(folder / f'checkpoints/{file}.pth'), device='cpu')


@pytest.fixture(scope='module')
def images(tiny_shapes) -> list[dict[str, Any]]:
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    from erq_mm.engine.evaluation import load_config

    from ..conftest import ROOT

    config = load_config(str(ROOT / f'configs/shapes/{CONFIGS["mask"]}_shapes.py'))
    init_default_scope('mmdet')
    pipeline = Compose([step for step in config.test_pipeline if step['type'] != 'LoadAnnotations'])
    paths = sorted((tiny_shapes / 'val').iterdir())[:2]
    return [pipeline(dict(img_path=str(path), img_id=number)) for number, path in enumerate(paths)]


@pytest.fixture(scope='module')
def quantized(images) -> nn.Module:
    """Return the Mask R-CNN in W4A8 with all convolutions, attention products float, the image on a kernel's grid."""
    model = load('mask')
    erq_mm.quantize_(model, DetectorTask(images[:1], True), KERNEL_GRIDS, 4, 8, 'all')
    return without_products(model)


@torch.no_grad()
def detect(model: nn.Module, images: list[dict[str, Any]]) -> list[Any]:
    batch = pseudo_collate([image | {'data_samples': image['data_samples'].clone()} for image in images])
    return [sample.pred_instances for sample in model.test_step(batch)]


def agree(ours: list[Any], theirs: list[Any]) -> None:
    """Confident detections are there, up to the codes that round the other way, which moves scores, too."""
    for a, b in zip(ours, theirs, strict=True):
        assert abs(int((a.scores > 0.8).sum()) - int((b.scores > 0.8).sum())) <= 1
        a, b = a[a.scores > 0.7], b[b.scores > 0.8]
        assert len(b)
        distance = torch.cdist(b.bboxes, a.bboxes, p=torch.inf).min(1)
        assert (distance.values < 3).float().mean() > 0.8
        pairs = [(m, a.masks[i]) for m, i, d in zip(b.masks, distance.indices, distance.values, strict=True) if d < 3]
        assert all((m & n).sum() > 0.9 * (m | n).sum() for m, n in pairs)


def test_detects_what_the_simulation_does(engine, quantized, images) -> None:
    model = copy.deepcopy(quantized)
    deployment = deploy_with_backend_(model, engine, threads=1)
    assert list(deployment.parts) == PARTS['mask'] and not deployment.left
    missed = [proof.name for proofs in deployment.parts.values() for proof in proofs if not proof.is_integer]
    assert missed == ['roi_head.mask_head.upsample'] and 'float operators in f32' in deployment.summary
    agree(detect(model, images), detect(quantized, images))  # a batch of two
    assert not any(isinstance(module, (nn.Linear, nn.Conv2d)) for module in model.modules())  # their memory is free


def test_no_regions_and_other_sizes(quantized) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    model = copy.deepcopy(quantized)
    deploy_with_backend_(model, 'onnxruntime', threads=1)
    head, empty = model.roi_head, torch.zeros(0, 64, 7, 7)
    assert [tuple(x.shape) for x in head.bbox_head(empty)] == [(0, 8), (0, 28)]
    assert tuple(head.mask_head(torch.zeros(0, 64, 14, 14)).shape) == (0, 7, 28, 28)
    with torch.no_grad():
        for size in ((64, 160), (224, 96)):
            x = torch.randn(1, 3, *size)
            shapes = [[tuple(level.shape) for level in m.extract_feat(x)] for m in (model, quantized)]
            assert shapes[0] == shapes[1]


def assert_integer(proofs: list[Any], engine: str) -> None:
    """All layers run as integers; of first stages of 64 channels or fewer OpenVINO takes some for too small."""
    floats = [proof.name for proof in proofs if not proof.is_integer]
    assert not [name for name in floats if engine != 'openvino' or 'stages.0' not in name and 'patch_embed' not in name]


@torch.no_grad()
def test_one_size_may_be_known_and_others_go_on_working(engine, quantized) -> None:
    model, any_size = copy.deepcopy(quantized), copy.deepcopy(quantized)
    deployment = deploy_with_backend_(model, engine, threads=1, image_size=[96, 160])
    deploy_with_backend_(any_size, engine, threads=1)
    assert_integer(deployment.parts['backbone_neck'], engine)
    session = model.backbone.session
    for size, is_known in (((96, 160), True), ((64, 96), False)):
        x = torch.randn(1, 3, *size)
        for ours, theirs in zip(model.extract_feat(x), any_size.extract_feat(x), strict=True):
            assert (ours - theirs).square().sum() < 1e-3 * theirs.square().sum()  # codes at ties
        assert (session.any is None) == is_known


@pytest.mark.parametrize('size', [800, (800,), (800, 0), ('800', 1216), (True, 1216)])
def test_a_size_that_is_none_is_refused(quantized, size: Any) -> None:
    pytest.importorskip('openvino', reason='openvino is not installed')
    with pytest.raises(ValueError, match=r'image_size is height and width, such as \(800, 1216\)'):
        deploy_with_backend_(quantized, 'openvino', image_size=size)


def test_parts_can_be_chosen_and_faults_are_named(quantized) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    model = copy.deepcopy(quantized)
    with pytest.raises(ValueError, match="unknown backend 'tensorrt'.*openvino"):
        deploy_with_backend_(model, 'tensorrt')
    with pytest.raises(ValueError, match="no parts .'masks'.*mask_head"):
        deploy_with_backend_(model, 'onnxruntime', parts=['masks'])
    deployment = deploy_with_backend_(model, 'onnxruntime', parts=['bbox_head'])
    assert list(deployment.parts) == ['bbox_head'] and isinstance(model.backbone, type(quantized.backbone))


def test_registrations_have_the_options_of_their_engines(quantized) -> None:
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    functions: dict[str, Any] = {}
    register_graph_backends(lambda name: lambda f: functions.setdefault(name, f), lambda _, wanted: f' {wanted}')
    summary = functions['onnxruntime'](copy.deepcopy(quantized), None, fast_roi_align=False, threads=1)
    assert summary.startswith('onnxruntime: float operators in f32') and summary.endswith(' False')
    assert sorted(functions) == ['onnxruntime', 'openvino']


@pytest.mark.slow
@pytest.mark.parametrize('w_bits', [4, 6])
def test_cascade_stage_by_stage(engine, images, w_bits: int) -> None:
    model = load('cascade')
    erq_mm.quantize_(model, DetectorTask(images[:1], True), KERNEL_GRIDS, w_bits, 8, 'all')
    model = without_products(model)
    expected = detect(model, images)
    deployment = deploy_with_backend_(model, engine, threads=1)
    assert list(deployment.parts) == PARTS['cascade'] and not deployment.float_layers
    agree(detect(model, images), expected)
