"""The regions of interest of a two-stage detector: those of the float model go through the heads in every run."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import SemiBaseDetector, TwoStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from mmdet.structures.bbox import bbox2roi, scale_boxes
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..calibration.sequential.streams import may_pause
from .mixed_regions import RegionMix, draw_mix
from .region_relevance import class_probabilities, count_rivals, relevance
from .stand_ins import own_method, replaced

Features = tuple[Tensor, ...] | list[Tensor]
StandIn = tuple[nn.Module, str, Any]  # module, its method, and what runs in its place

# methods with which nothing after the box head of a two-stage detector looks at its masks -> the class they come from
PLAIN_METHODS = {'predict': TwoStageDetector, 'add_pred_to_datasample': BaseDetector, 'forward': BaseDetector}


def is_known_two_stage(model: nn.Module) -> bool:
    """Whether a detector's regions can be recorded and replayed: exactly mmdet's standard or cascade head."""
    known = type(getattr(model, 'roi_head', None)) in (StandardRoIHead, CascadeRoIHead)
    return isinstance(model, TwoStageDetector) and model.with_rpn and known


def two_stage_parts(model: nn.Module) -> dict[str, TwoStageDetector]:
    """Return the known two-stage detectors in a model by name; that of the model itself is ''."""
    return {name: module for name, module in model.named_modules() if is_known_two_stage(module)}


def evaluated_part(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the detector whose predictions those of `model` are, and its name in it.

    It is the model itself ('' is its name), or the half of a semi-supervised detector that evaluation runs.
    """
    name = ''
    while isinstance(model, SemiBaseDetector) and type(model).predict is SemiBaseDetector.predict:
        half = 'teacher' if (model.semi_test_cfg or {}).get('predict_on', 'teacher') == 'teacher' else 'student'
        name, model = f'{name}.{half}' if name else half, getattr(model, half)
    return name, model


def ignores_masks(detector: nn.Module) -> bool:
    """Whether a two-stage detector's forward does nothing with the masks of its region head but return them."""
    return all(getattr(type(detector), name, None) is getattr(owner, name) for name, owner in PLAIN_METHODS.items())


@dataclass
class _BoxCall:
    """One call of a box head of the float model.

    Attributes:
        stage: whose head it is.
        rois: regions of interest, (n, 5).
        foreground: the probability that a region shows an object of any class, (n,).
        rivals: how many others show the same object and have a better score, (n,).
        mixed: the foreground of regions that have been mixed from these in the present run.
    """

    stage: int
    rois: Tensor
    foreground: Tensor | None = None
    rivals: Tensor | None = None
    mixed: Tensor | None = None

    def relevance(self) -> Tensor:
        """Return what errors of the regions count, (n,), all alike where nothing is known of what they show."""
        if self.foreground is None:
            return self.rois.new_ones(len(self.rois))
        return relevance(self.foreground, self.rivals)


@dataclass
class _Detection:
    """What one call of `roi_head.predict` of the float model leaves for later runs.

    Attributes:
        boxes: every call of a box head, in order.
        mask_rois: regions that the mask heads are run on, or None.
        results: one per image, in input coordinates, without masks.
        labels: `results` with masks; None unless labels were asked for.
    """

    boxes: list[_BoxCall]
    mask_rois: Tensor | None
    results: list[InstanceData]
    labels: list[InstanceData] | None = None


class RegionMemory:
    """What the first run of an image through one detector, which must be the float one, leaves for later runs.

    While it is attached, the detector's own forward runs, with stand-ins for `rpn_head.predict` and `roi_head.predict`.

    Args:
        with_masks: also run the mask heads, on the best boxes whatever their score, so that they see rows on every
            image.
        with_labels: keep the detections with their masks, in input coordinates.
    """

    def __init__(self, with_masks: bool, with_labels: bool) -> None:
        self.with_masks, self.with_labels = with_masks, with_labels
        self.proposals: list[list[InstanceData]] = []
        self.detections: list[_Detection] = []
        self._is_complete = False

    @property
    def was_run(self) -> bool:
        """Whether the image reached the region head."""
        return bool(self.detections)

    @property
    def has_regions(self) -> bool:
        """Whether a region of interest went through the box heads."""
        return any(len(call.rois) for detection in self.detections for call in detection.boxes)

    def relevance(self, stage: int) -> Tensor:
        """Return what errors of the regions of a stage count (`region_relevance`), in order, (n,).

        Those of regions mixed from them (`mix`), of which none has a rival, come behind them.
        """
        calls = self._calls(stage)
        found = [call.relevance() for call in calls]
        found += [relevance(call.mixed) for call in calls if call.mixed is not None]
        return torch.cat(found) if found else torch.zeros(0)

    def mix(self, head: nn.Module, stage: int, x: Tensor, count: int, seed: int) -> RegionMix | None:
        """Return how more regions are made of those of a stage, drawn by what they show, and remember what these show.

        Args:
            head: the float model's region head.
            x: what a layer of the stage's box head gets from it.
            count: of the new regions. seed: of the draw.

        Returns:
            None where there are no regions, an extractor that is no mmdet one cuts them out, the layer does not get
            them as they are, or nothing is known of what they show.
        """
        extractor, box_head = (stages(part)[stage] for part in (head.bbox_roi_extractor, head.bbox_head))
        calls = self._calls(stage)
        if not isinstance(extractor, BaseRoIExtractor):
            return None
        shape = (len(x), extractor.out_channels, *extractor.roi_layers[0].output_size)
        is_cut_out = len(calls) == 1 and len(calls[0].rois) == len(x) and x.numel() == math.prod(shape)
        if not is_cut_out or not len(x) or calls[0].foreground is None:
            return None
        mix = draw_mix(relevance(calls[0].foreground), shape[2:], count, seed)
        scores = box_head(mix.mixed(x.reshape(shape)))[0]
        calls[0].mixed = 1 - class_probabilities(box_head, scores)[:, -1]
        return mix

    def _calls(self, stage: int) -> list[_BoxCall]:
        return [call for detection in self.detections for call in detection.boxes if call.stage == stage]

    @property
    def labels(self) -> InstanceData | None:
        """The float model's detections; None before the first run, or if they were not asked for."""
        found = [detection.labels[0] for detection in self.detections if detection.labels]
        return found[0] if found else None

    @contextmanager
    def attached(self, detector: TwoStageDetector, needs_masks: bool) -> Iterator[None]:
        """Record the regions of the forward in the block, or replay them once a forward was recorded whole.

        Args:
            detector: whose forward runs in the block.
            needs_masks: whether what comes after the region head needs the instances' masks.
        """
        if not self._is_complete:
            self.proposals, self.detections = [], []
        run = (_Replay if self._is_complete else _Recording)(self, detector, needs_masks)
        with ExitStack() as stack:
            for stand_in in run.stand_ins():
                stack.enter_context(replaced(*stand_in))
            yield
        self._is_complete = True


class _Run:
    """The stand-ins for methods of a detector during one forward."""

    def __init__(self, memory: RegionMemory, detector: TwoStageDetector, needs_masks: bool) -> None:
        self.memory, self.detector = memory, detector
        self.rpn_head, self.head = detector.rpn_head, detector.roi_head
        self.rpn_predict = own_method(detector.rpn_head, 'predict')
        self.pastes_masks = needs_masks and self.head.with_mask

    def stand_ins(self) -> list[StandIn]:
        return [(self.rpn_head, 'predict', self.propose), (self.head, 'predict', self.detect)]

    def finish(self, features: Features, metas: list[dict], found: _Detection, rescale: bool) -> list[InstanceData]:
        """Return what the detector's forward goes on with: its detections, with masks where they are needed."""
        results = [result.clone() for result in found.results]
        for result, meta in zip(results, metas, strict=True):
            result.bboxes = result.bboxes.clone()  # mmdet rescales them in place
            if rescale and not self.pastes_masks:
                result.bboxes = scale_boxes(result.bboxes, [1 / factor for factor in meta['scale_factor']])
        if self.pastes_masks:  # runs the mask heads
            results = self.head.predict_mask(features, metas, results, rescale=rescale)
        return [result[result.scores > self.head.test_cfg.score_thr] for result in results]


class _Recording(_Run):
    """The first run."""

    def propose(self, *args: Any, **keywords: Any) -> list[InstanceData]:
        """Stand in for `rpn_head.predict`."""
        proposals = self.rpn_predict(*args, **keywords)
        self.memory.proposals.append([proposal.clone() for proposal in proposals])
        return proposals

    def detect(
        self, features: Features, proposals: list[InstanceData], samples: list, rescale: bool = False
    ) -> list[InstanceData]:
        """Stand in for `roi_head.predict`."""
        head, metas = self.head, [sample.metainfo for sample in samples]
        config = head.test_cfg.copy()
        config.score_thr = 0.0 if self.memory.with_masks else config.score_thr
        with _recorded_boxes(head) as boxes:
            results = head.predict_bbox(features, metas, proposals, config, rescale=False)
        mask_rois = bbox2roi([r.bboxes for r in results]) if self.memory.with_masks and head.with_mask else None
        found = _Detection(boxes, mask_rois, [result.clone() for result in results])
        self.memory.detections.append(found)
        if self.memory.with_labels and not self.pastes_masks:
            found.labels = head.predict_mask(features, metas, results, rescale=False) if head.with_mask else results
        elif not self.pastes_masks:
            _run_mask_heads(head, features, mask_rois)
        return self.finish(features, metas, found, rescale)


class _Replay(_Run):
    """A later run: the heads see the recorded regions, whatever this model would propose."""

    def __init__(self, memory: RegionMemory, detector: TwoStageDetector, needs_masks: bool) -> None:
        super().__init__(memory, detector, needs_masks)
        self.proposals, self.detections = iter(memory.proposals), iter(memory.detections)
        self.extract_feat = own_method(detector, 'extract_feat')

    def stand_ins(self) -> list[StandIn]:
        return [*super().stand_ins(), (self.detector, 'extract_feat', self.extract)]

    def extract(self, *args: Any, **keywords: Any) -> list[Tensor]:
        """Stand in for `extract_feat`: a list, which can be emptied under those who hold it."""
        return list(self.extract_feat(*args, **keywords))

    def propose(self, features: Features, *args: Any, **keywords: Any) -> list[InstanceData]:
        """Stand in for `rpn_head.predict`."""
        if type(self.rpn_head) is RPNHead:
            self.rpn_head(features)
        else:  # a head of several stages has no forward of its own
            self.rpn_predict(features, *args, **keywords)
        return [proposal.clone() for proposal in self._next(self.proposals)]

    def detect(
        self, features: Features, _proposals: list[InstanceData], samples: list, rescale: bool = False
    ) -> list[InstanceData]:
        """Stand in for `roi_head.predict`."""
        found, head = self._next(self.detections), self.head
        has_mask_rois = found.mask_rois is not None and len(found.mask_rois) > 0
        needs_maps = self.pastes_masks or has_mask_rois or not ignores_masks(self.detector)
        for place, call in enumerate(found.boxes):
            stage, rois, call.mixed = call.stage, call.rois, None
            is_last = place == len(found.boxes) - 1 and not needs_maps
            with _regions_let_go(head, stage, features if is_last else None):
                if isinstance(head, CascadeRoIHead):
                    head._bbox_forward(stage, features, rois)
                else:
                    head._bbox_forward(features, rois)
        if not self.pastes_masks:
            _run_mask_heads(head, features, found.mask_rois)
        return self.finish(features, [sample.metainfo for sample in samples], found, rescale)

    def _next(self, recorded: Iterator[Any]) -> Any:
        try:
            return next(recorded)
        except StopIteration:
            raise RuntimeError(
                f'{type(self.head).__name__} is run more often than when the same image went through the float model, '
                'so its rows cannot be paired: the forward must make the same calls for the same image'
            ) from None


@contextmanager
def _recorded_boxes(head: nn.Module) -> Iterator[list[_BoxCall]]:
    """Collect the calls of the box heads while the block runs."""
    calls: list[_BoxCall] = []
    with ExitStack() as stack:
        pairs = zip(stages(head.bbox_roi_extractor), stages(head.bbox_head), strict=True)
        for stage, (extractor, box_head) in enumerate(pairs):

            def note_rois(_module: nn.Module, args: tuple, stage: int = stage) -> None:
                calls.append(_BoxCall(stage, args[1].clone()))

            def note_outputs(module: nn.Module, _args: tuple, output: tuple) -> None:
                scores, deltas = output
                if scores is not None:  # a head may have no classes
                    call, probabilities = calls[-1], class_probabilities(module, scores)
                    call.foreground = 1 - probabilities[:, -1]
                    call.rivals = count_rivals(module, call.rois, probabilities, deltas)

            stack.callback(extractor.register_forward_pre_hook(note_rois).remove)
            stack.callback(box_head.register_forward_hook(note_outputs).remove)
        yield calls


def stages(part: nn.Module) -> list[nn.Module]:
    """Return what a part of a known region head (box heads, mask heads, extractors) is, stage by stage."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


@contextmanager
def _regions_let_go(head: nn.Module, stage: int, maps: Features | None) -> Iterator[None]:
    """Let nobody but the first layer of a box head hold the regions that are cut out.

    Those who call the head would hold them until it returns, in every paused forward: 50 MB of an 800x1216 image. They
    get zeros of that shape, which weigh nothing, and the layer the regions. Forwards that nothing pauses are left
    alone: in these others look at what modules return.

    Args:
        maps: what they are cut out of, if nobody needs it any more, which is let go of, too: 83 MB.
    """
    extractor = stages(head.bbox_roi_extractor)[stage]
    first = _first_layer(stages(head.bbox_head)[stage]) if may_pause() and not head.with_shared_head else None
    cut_out, held = own_method(extractor, 'forward'), dict[int, Tensor]()

    def cut_out_and_hold(*args: Any, **keywords: Any) -> Tensor:
        regions = cut_out(*args, **keywords)
        if isinstance(maps, list):
            maps.clear()
        if first is None or not regions.numel():
            return regions
        zeros = regions.new_zeros(()).expand(regions.shape)
        held[zeros.data_ptr()] = regions
        return zeros

    def hand_over(_module: nn.Module, args: tuple) -> tuple | None:
        regions = held.pop(args[0].data_ptr(), None)  # of this forward, and not of one that is paused
        return None if regions is None else (regions.reshape(args[0].shape), *args[1:])

    with ExitStack() as stack:
        stack.enter_context(replaced(extractor, 'forward', cut_out_and_hold))
        if first is not None:
            stack.callback(first.register_forward_pre_hook(hand_over, prepend=True).remove)
        yield


def _first_layer(box_head: nn.Module) -> nn.Module | None:
    """Return the layer that alone reads the regions, at most flattened; None where that is not known."""
    if not isinstance(box_head, ConvFCBBoxHead) or type(box_head).forward is not ConvFCBBoxHead.forward:
        return None
    if box_head.num_shared_convs:
        return box_head.shared_convs[0]
    return box_head.shared_fcs[0] if box_head.num_shared_fcs and not box_head.with_avg_pool else None


def _run_mask_heads(head: nn.Module, features: Features, rois: Tensor | None) -> None:
    if rois is None or not len(rois):
        return
    if isinstance(head, CascadeRoIHead):
        for stage in range(head.num_stages):
            head._mask_forward(stage, features, rois)
    else:
        head._mask_forward(features, rois)
