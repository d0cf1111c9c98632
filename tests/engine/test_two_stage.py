"""Detectors calibrate through their own forward, and two-stage ones on the float model's regions of interest."""

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models.detectors import MaskRCNN
from mmdet.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import erq_mm
from erq_mm.calibration.sequential.streams import Streams, may_pause
from erq_mm.engine import two_stage
from erq_mm.engine.detector import DetectorTask, idle_detectors
from erq_mm.engine.region_relevance import count_rivals

from .zoo import small_config


@pytest.fixture
def build(tiny_shapes: Path) -> Callable[..., tuple[nn.Module, list[dict]]]:
    """Return a function that builds a small detector with random weights, and two images for it."""

    def make(name: str, kind: type | None = None) -> tuple[nn.Module, list[dict]]:
        config = small_config(name, tiny_shapes)
        init_default_scope('mmdet')
        if kind is not None:
            config.model.type = kind
        model = MODELS.build(config.model).eval()
        model.init_weights()
        dataset = DATASETS.build(config.test_dataloader.dataset)
        return model, [dataset[index] for index in range(2)]

    return make


@torch.no_grad()
def _run(model: nn.Module, task: DetectorTask, part: str = '') -> tuple[list[tuple[str, torch.Tensor]], list[Any]]:
    """Return the inputs of a part's layers in the order of their calls, and what the model returns for the images."""
    rows: list[tuple[str, torch.Tensor]] = []
    outputs: list[Any] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, args, name=name: rows.append((name, args[0].clone())))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name.startswith(part)
    ]
    handles.append(model.register_forward_hook(lambda _m, _args, output: outputs.extend(output)))
    task(model)
    for handle in handles:
        handle.remove()
    return rows, outputs


def _assert_same(rows: list[tuple[str, torch.Tensor]], others: list[tuple[str, torch.Tensor]]) -> None:
    assert [name for name, _ in rows] == [name for name, _ in others]
    for (_, a), (_, b) in zip(rows, others, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def _predicted(model: nn.Module, images: list[dict]) -> list[Any]:
    return [model.test_step(dict(inputs=[i['inputs']], data_samples=[i['data_samples'].clone()]))[0] for i in images]


@pytest.mark.parametrize('name', ['mask-rcnn', 'panoptic-fpn', 'cascade-rpn', 'soft-teacher'])
@pytest.mark.parametrize('with_masks', [False, True])
def test_every_run_sends_the_same_rows_through_the_same_layers(name: str, with_masks: bool, build) -> None:
    model, images = build(name)
    task = DetectorTask(images, with_masks)
    first, _ = _run(model, task)
    _assert_same(first, _run(model, task)[0])
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for layer, parameter in changed.named_parameters():
            if 'rpn' in layer and parameter.dim() == 4:
                parameter.neg_()  # other proposals, were they not remembered
    rows = [(layer, x) for layer, x in first if 'roi_head' in layer]
    _assert_same(rows, [(layer, x) for layer, x in _run(changed, task)[0] if 'roi_head' in layer])


def test_with_masks_every_layer_is_reached(build) -> None:
    for name in ('mask-rcnn', 'panoptic-fpn'):
        model, images = build(name)
        reached = {layer for layer, _ in _run(model, DetectorTask(images, True))[0]}
        layers = {layer for layer, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
        assert layers == reached


def test_plain_detectors_compute_no_masks_unless_asked(build) -> None:
    model, images = build('mask-rcnn')
    assert not _run(model, DetectorTask(images, False), 'roi_head.mask_head')[0]


@pytest.mark.parametrize('with_masks', [False, True])
def test_the_forward_goes_on_with_the_detections_of_test_time(with_masks: bool, build) -> None:
    """Panoptic segmentation is made of boxes, masks and the semantic head; the replay makes the same of them."""
    model, images = build('panoptic-fpn')
    model.roi_head.test_cfg.score_thr = 0.13  # random scores: some detections are above it, others below
    wanted = [sample.pred_panoptic_seg.sem_seg for sample in _predicted(model, images)]
    assert any(len(picture.unique()) > 1 for picture in wanted)
    task = DetectorTask(images, with_masks)
    for _ in range(2):
        _, found = _run(model, task)
        for sample, picture in zip(found, wanted, strict=True):
            assert torch.equal(sample.pred_panoptic_seg.sem_seg, picture)


@pytest.mark.parametrize('name', ['mask-rcnn', 'cascade-mask-rcnn'])
@pytest.mark.parametrize('with_masks', [False, True])
def test_maps_are_let_go_of_once_no_head_needs_them(name: str, with_masks: bool, build) -> None:
    model, images = build(name)
    task = DetectorTask(images[:1], with_masks)
    heads = model.roi_head.bbox_head
    heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
    maps: list[weakref.ref] = []
    alive: list[bool] = []
    handles = [model.neck.register_forward_hook(lambda _m, _args, out: maps.extend(map(weakref.ref, out)))]
    handles += [
        head.register_forward_pre_hook(lambda *_: alive.append(any(ref() is not None for ref in maps)))
        for head in heads
    ]
    for is_first in (True, False):
        maps.clear(), alive.clear()
        with torch.no_grad():
            task(model)
        is_needed = is_first or with_masks and model.with_mask
        assert alive == [True] * (len(heads) - 1) + [is_needed]


def test_boxes_of_a_plain_detector_are_those_of_test_time(build) -> None:
    model, images = build('faster-rcnn')
    wanted = [sample.pred_instances.bboxes for sample in _predicted(model, images)]
    task = DetectorTask(images, False)
    for _ in range(2):
        for sample, boxes in zip(_run(model, task)[1], wanted, strict=True):
            torch.testing.assert_close(sample.pred_instances.bboxes, boxes)


class Judging(MaskRCNN):
    """As users extend detectors: a layer of their own looks at the masks, and the region head runs twice."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.judge = nn.Linear(2, 1)

    def predict(self, batch_inputs: torch.Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        features = self.extract_feat(batch_inputs)
        proposals = self.rpn_head.predict(features, batch_data_samples, rescale=False)
        once = self.roi_head.predict(features, proposals, batch_data_samples, rescale=rescale)
        again = [InstanceData(bboxes=result.bboxes[:3]) for result in proposals]
        twice = self.roi_head.predict(features, again, batch_data_samples, rescale=rescale)
        for sample, first, second in zip(batch_data_samples, once, twice, strict=True):
            areas = torch.stack([first.masks[:2].sum((1, 2)), second.masks[:2].sum((1, 2))]).float()
            sample.pred_instances = InstanceData(scores=self.judge(areas)[:, 0])
        return batch_data_samples


def test_a_forward_of_the_users_own(build) -> None:
    model, images = build('mask-rcnn', Judging)
    wanted = [sample.pred_instances.scores for sample in _predicted(model, images)]
    task = DetectorTask(images, with_masks=False)
    assert task.offers(model) == {'predictions'}  # its masks are not in input coordinates, which the loss needs
    first, found = _run(model, task)
    again, repeated = _run(model, task)
    _assert_same(first, again)
    assert sum(name == 'judge' for name, _ in first) == 2
    for sample, other, scores in zip(found, repeated, wanted, strict=True):
        assert torch.equal(sample.pred_instances.scores, scores)
        assert torch.equal(other.pred_instances.scores, scores)


def test_the_images_stay_as_they_are(build) -> None:
    for name in ('retinanet', 'mask-rcnn'):
        model, images = build(name)
        fields = [image['data_samples'].keys() for image in images]
        pixels = [image['inputs'].clone() for image in images]
        _run(model, DetectorTask(images, False))
        assert [image['data_samples'].keys() for image in images] == fields
        assert all(torch.equal(image['inputs'], before) for image, before in zip(images, pixels, strict=True))


def test_a_failing_forward_leaves_the_detector_alone_and_the_next_run_is_the_first(build) -> None:
    model, images = build('mask-rcnn')
    task = DetectorTask(images, True)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.roi_head.mask_head.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        _run(model, task)
    handle.remove()
    assert 'predict' not in vars(model.rpn_head) and 'predict' not in vars(model.roi_head)
    _assert_same(_run(model, task)[0], _run(model, DetectorTask(images, True))[0])


def test_only_the_half_that_evaluation_runs_is_entered(build) -> None:
    model, images = build('soft-teacher')
    model.requires_grad_(True)  # the teacher's are frozen
    for half, idle in (('teacher', 'student'), ('student', 'teacher')):
        model.semi_test_cfg = {'predict_on': half}
        assert idle_detectors(model, DetectorTask(images, False)) == [idle]
        task = DetectorTask(images, False, with_labels=True)
        assert {name.partition('.')[0] for name, _ in _run(model, task)[0]} == {half}
        assert task.offers(model) == {'loss', 'predictions'}
        loss = task.loss(model, 0)
        loss.backward()
        assert {name.partition('.')[0] for name, p in model.named_parameters() if p.grad is not None} == {half}
        assert torch.equal(
            task.predict(model, 0)[0], model.get_submodule(half).rpn_head(_features(model, half, task))[0][0]
        )
        model.zero_grad(set_to_none=True)


def _features(model: nn.Module, half: str, task: DetectorTask) -> tuple[torch.Tensor, ...]:
    data = model.data_preprocessor(task._batch(0), False)
    return model.get_submodule(half).extract_feat(data['inputs'])


def test_a_plain_detector_has_no_detector_inside(build) -> None:
    model, images = build('mask-rcnn')
    assert idle_detectors(model, DetectorTask(images, False)) == []


PAIRS = [
    ('mask-rcnn', 'roi_head.bbox_head.fc_cls', True),
    ('mask-rcnn', 'backbone.stages.0.blocks.0.ffn.layers.1', True),
    ('htc', 'neck.fpn_convs.0.conv', True),
    ('htc', 'rpn_head.rpn_conv', True),
    ('htc', 'roi_head.bbox_head.0.fc_cls', False),
    ('retinanet', 'bbox_head.retina_cls', True),
    ('dino', 'encoder.layers.0.ffn.layers.1', True),
    ('dino', 'decoder.layers.0.ffn.layers.1', False),
    ('dino', 'bbox_head.cls_branches.0', False),
    ('soft-teacher', 'teacher.roi_head.bbox_head.fc_reg', True),
    ('panoptic-fpn', 'semantic_head.conv_logits', True),
]


@pytest.mark.parametrize(('name', 'layer', 'paired'), PAIRS)
def test_which_rows_belong_together(name: str, layer: str, paired: bool, build) -> None:
    model, images = build(name)
    assert model.get_submodule(layer) is not None
    assert DetectorTask(images, False).pairs_rows(model, layer) == paired


@pytest.mark.parametrize(
    ('name', 'part', 'stages'),
    [('mask-rcnn', '', ['']), ('cascade-mask-rcnn', '', ['.0', '.1', '.2']), ('soft-teacher', 'teacher.', [''])],
)
def test_regions_count_by_what_the_float_model_sees_in_them(name: str, part: str, stages: list[str], build) -> None:
    model, images = build(name)
    task = DetectorTask(images, False)
    roi_head = model.get_submodule(f'{part}roi_head')
    calls: dict[str, list[list[torch.Tensor]]] = {stage: [] for stage in stages}
    for stage, found in calls.items():
        extractor, head = (roi_head.get_submodule(name + stage) for name in ('bbox_roi_extractor', 'bbox_head'))
        extractor.register_forward_pre_hook(lambda _m, args, found=found: found.append([args[1].clone()]))
        head.register_forward_hook(lambda _m, _args, output, found=found: found[-1].extend(output))
    with torch.no_grad():
        task(model)
    for stage, found in calls.items():
        layer = f'{part}roi_head.bbox_head{stage}.fc_reg'
        head = roi_head.get_submodule(f'bbox_head{stage}')
        rivals = [count_rivals(head, rois, logits.softmax(1), deltas) for rois, logits, deltas in found]
        wanted = torch.cat(
            [
                (1 - logits.softmax(1)[:, -1]) * 0.7**count + 0.2
                for (_, logits, _), count in zip(found, rivals, strict=True)
            ]
        )
        assert len(wanted) > 0 and torch.cat(rivals).max() > 0
        torch.testing.assert_close(task.relevance(model, layer, [0, 1]), wanted)
        torch.testing.assert_close(task.relevance(model, layer, [1]), wanted[len(rivals[0]) :])
    for layer in ('backbone.stages.0.blocks.0.ffn.layers.1', 'rpn_head.rpn_conv'):
        assert task.relevance(model, part + layer, [0, 1]) is None


@pytest.mark.parametrize(('name', 'stage'), [('mask-rcnn', ''), ('cascade-mask-rcnn', '.1')])
def test_more_regions_are_those_of_the_image_and_count_by_what_the_float_model_sees(
    name: str, stage: str, build
) -> None:
    model, images = build(name)
    task = DetectorTask(images[:1], False)
    head = model.get_submodule(f'roi_head.bbox_head{stage}')
    seen: dict[str, list[torch.Tensor]] = {'regions': [], 'scores': []}
    head.register_forward_pre_hook(lambda _m, args: seen['regions'].append(args[0]))
    head.register_forward_hook(lambda _m, _args, output: seen['scores'].append(output[0]))
    first, second = (f'roi_head.bbox_head{stage}.{layer}' for layer in ('shared_fcs.0', 'shared_fcs.1'))
    with torch.no_grad():
        task(model)
        regions = seen['regions'][0]
        rows, own = regions.flatten(1), task.relevance(model, first, [0])
        add = task.more_rows(model, first, [0], rows, 20, seed=0)
        added = add(rows)
        assert torch.equal(added[: len(rows)], rows) and len(added) == len(rows) + 20
        torch.testing.assert_close(seen['regions'][1].flatten(1), added[len(rows) :])
        shown = 1.2 - seen['scores'][1].softmax(1)[:, -1]
        torch.testing.assert_close(task.relevance(model, second, [0]), torch.cat([own, shown]))
        columns = model.get_submodule(second).in_features
        assert task.more_rows(model, second, [0], rows[:, :columns], 20, seed=0) is None  # not what is cut out
        assert task.more_rows(model, 'rpn_head.rpn_conv', [0], rows, 20, seed=0) is None
        task(model)  # another run knows of its own rows alone
        assert len(task.relevance(model, second, [0])) == len(rows)


def test_layers_behind_the_first_of_a_box_head_are_fitted_to_more_regions(build) -> None:
    model, images = build('mask-rcnn')
    rows = {}
    for count in (0, 50):
        recipe = {'type': 'serq', 'mixed_regions': count, 'views': 1}
        report = erq_mm.quantize_(copy.deepcopy(model), DetectorTask(images, False), recipe, 4, 4)
        rows[count] = {
            layer.name.split('bbox_head.')[1]: layer.rows for layer in report.layers if 'bbox_head' in layer.name
        }
    first = 'shared_fcs.0'
    assert rows[50].pop(first) == rows[0].pop(first)
    assert rows[50] == {name: count + 2 * 50 for name, count in rows[0].items()} and len(rows[50]) == 3


@pytest.mark.parametrize('name', ['mask-rcnn', 'faster-rcnn', 'cascade-mask-rcnn'])
@torch.no_grad()
def test_paused_forwards_hold_no_regions_behind_the_first_layer(name: str, build) -> None:
    model, images = build(name)
    task = DetectorTask(images, False)
    recorded = dict(_run(model, task, 'roi_head.bbox_head')[0][:2])
    units = list(recorded)
    streams = Streams(model, task, task.groups(), units)
    try:
        streams.start()
        inputs = [stop.args[0] for stop in streams.stops]
        torch.testing.assert_close(inputs[0], recorded[units[0]])
        regions = [StorageWeakRef(x.untyped_storage()) for x in inputs]
        del inputs
        assert not any(storage.expired() for storage in regions)
        streams.done.add(units[0])
        for index in range(2):
            streams.advance(index)
        assert all(storage.expired() for storage in regions)
        torch.testing.assert_close(streams.stops[0].args[0], recorded[units[1]])
    finally:
        streams.close()


@pytest.mark.parametrize('name', ['mask-rcnn', 'cascade-mask-rcnn'])
def test_who_holds_the_regions_does_not_matter(name: str, build, monkeypatch) -> None:
    model, images = build(name)
    states = []
    for lets_go in (True, False):
        monkeypatch.setattr(two_stage, 'may_pause', may_pause if lets_go else lambda: False)
        quantized = copy.deepcopy(model)
        erq_mm.quantize_(quantized, DetectorTask(images, False), {'type': 'serq', 'views': 1}, 4, 4)
        states.append(quantized.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


def test_more_calls_of_the_region_head_than_were_recorded_are_an_error(build) -> None:
    class Growing(MaskRCNN):
        runs = 0

        def predict(self, batch_inputs: torch.Tensor, batch_data_samples: list, rescale: bool = True) -> list:
            self.runs += 1
            for _ in range(self.runs):
                found = super().predict(batch_inputs, batch_data_samples, rescale)
            return found

    model, images = build('mask-rcnn', Growing)
    task = DetectorTask(images[:1], False)
    _run(model, task)
    with pytest.raises(RuntimeError, match='StandardRoIHead is run more often than when the same image'):
        _run(model, task)


def test_layers_without_partners_are_reconstructed_on_float_inputs(build) -> None:
    model, images = build('htc')
    recipe = {'type': 'qdrop', 'preset': 'fast', 'images': 1, 'iterations': 1, 'layer_iterations': 1, 'outside': 'all'}
    report = erq_mm.quantize_(model, DetectorTask(images[:1], False), recipe)
    (note,) = [note for note in report.notes if 'float inputs' in note]
    assert note.startswith('12 layers, e.g. roi_head.bbox_head.0.')  # 3 stages of 4 linears
    assert all(unit['after'] <= unit['before'] for unit in report.reconstruction)
