"""What becomes a graph: a classifier as a whole, and parts of two-stage detectors, whose rest stays in mmdet.

The rest are proposals, RoIAlign, NMS and mask pasting.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...nn.layers import QuantLayer
from .account import Account
from .codes import refuse_asymmetric_rows
from .graph import GraphBuilder
from .heads import HeadWriter
from .layers import LayerWriter
from .networks import WRITERS, find_classifier, write_classifier
from .supported import Unsupported
from .swin import SwinWriter

BACKBONE_NECK, BACKBONE, RPN, BOX, MASK = 'backbone_neck', 'backbone', 'rpn_head', 'bbox_head', 'mask_head'
CLASSIFIER = 'classifier'


@dataclass(frozen=True)
class Part:
    """One exported part.

    Attributes:
        name: `backbone_neck`, `rpn_head`, `bbox_head`, `mask_head`; of a cascade `bbox_head.0` and so on; `backbone`
            where the neck is not known; `classifier` is the whole network.
        model: `onnx.ModelProto`.
        account: what became of its layers.
    """

    name: str
    model: Any
    account: Account


def write_parts(detector: nn.Module) -> tuple[list[Part], dict[str, str]]:
    """Return the graphs of all parts of a model that the writers know, and why the others stay in torch.

    Args:
        detector: float or quantized, in eval mode; an mmdet two-stage detector or anything with such a `backbone`, or
            a classifier of `networks.WRITERS`, in whatever it is wrapped. It is not changed.

    Raises:
        AsymmetricRows: 8-bit weights that no int8 holds; names the layers and the way out.
        Unsupported: no part at all is known.
    """
    names = {module: name for name, module in detector.named_modules()}
    refuse_asymmetric_rows({name: module for module, name in names.items() if isinstance(module, QuantLayer)})
    if getattr(detector, 'backbone', None) is None:
        return [_classifier(detector, names)], {}
    parts, left = [], {}
    for name, write in _writers(detector):
        try:
            parts.append(_written(name, write, names))
        except Unsupported as error:
            left[name] = str(error)
    if BACKBONE_NECK in left and getattr(detector, 'neck', None) is not None:
        try:
            parts.insert(0, _written(BACKBONE, lambda layers: _backbone(layers, detector, with_neck=False), names))
            left = {'neck': left.pop(BACKBONE_NECK)} | left
        except Unsupported:
            pass  # then it was the backbone
    if not parts:
        raise Unsupported(f'no part of {type(detector).__name__} can be exported: {left}')
    return parts, left


def _classifier(model: nn.Module, names: dict[nn.Module, str]) -> Part:
    found = find_classifier(model)
    if found is None:
        known = sorted(name for writer in WRITERS for name in writer.types)
        raise Unsupported(
            f'{type(model).__name__} has no backbone and is no classifier of {known}, so nothing of it can be exported'
        )
    return _written(CLASSIFIER, lambda layers: write_classifier(layers, found[1]), names)


def _written(name: str, write: Callable[[LayerWriter], None], names: dict[nn.Module, str]) -> Part:
    graph = GraphBuilder(name)
    layers = LayerWriter(graph, names)
    write(layers)
    return Part(name, graph.model(), layers.account)


def _writers(detector: nn.Module) -> Iterator[tuple[str, Callable[[LayerWriter], None]]]:
    yield BACKBONE_NECK, lambda layers: _backbone(layers, detector)
    if getattr(detector, 'rpn_head', None) is not None:
        yield RPN, lambda layers: _rpn(layers, detector)
    head = getattr(detector, 'roi_head', None)
    for kind, write in ((BOX, _box_head), (MASK, _mask_head)):
        for name, module, extractor in roi_heads(head, kind):
            yield name, lambda layers, m=module, e=extractor, w=write: w(layers, m, e)


def roi_heads(roi_head: nn.Module | None, kind: str) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Yield (part name, head, its feature extractor) of `bbox_head` or `mask_head`, stage by stage."""
    heads = getattr(roi_head, kind, None)
    if heads is None:
        return
    extractors = getattr(roi_head, f'{kind.split("_")[0]}_roi_extractor')
    if not isinstance(heads, nn.ModuleList):
        yield kind, heads, extractors
        return
    for stage, head in enumerate(heads):
        extractor = extractors[stage] if isinstance(extractors, nn.ModuleList) else extractors
        yield f'{kind}.{stage}', head, extractor


def _backbone(layers: LayerWriter, detector: nn.Module, with_neck: bool = True) -> None:
    image = layers.graph.input('image', (1, 3, 'height', 'width'))
    maps = SwinWriter(layers).backbone(detector.backbone, image)
    channels = [detector.backbone.num_features[i] for i in detector.backbone.out_indices]
    neck = getattr(detector, 'neck', None)
    if neck is not None and with_neck:
        maps = HeadWriter(layers).fpn(neck, maps)
        channels = [neck.out_channels] * len(maps)
    for level, (value, width) in enumerate(zip(maps, channels, strict=True)):
        layers.graph.output(value, f'level{level}', (1, width, f'height{level}', f'width{level}'))


def _rpn(layers: LayerWriter, detector: nn.Module) -> None:
    head, graph = detector.rpn_head, layers.graph
    levels = range(len(head.prior_generator.strides))
    maps = [graph.input(f'level{n}', (1, head.in_channels, f'height{n}', f'width{n}')) for n in levels]
    scores, deltas = HeadWriter(layers).rpn(head, maps)
    for name, values in (('scores', scores), ('deltas', deltas)):
        for level, value in enumerate(values):
            graph.output(value, f'{name}{level}', (1, None, f'height{level}', f'width{level}'))


def _box_head(layers: LayerWriter, head: nn.Module, extractor: nn.Module) -> None:
    features = layers.graph.input('features', ('rois', extractor.out_channels, *head.roi_feat_size))
    scores, deltas = HeadWriter(layers).box_head(head, features)
    layers.graph.output(scores, 'scores', ('rois', head.fc_cls.out_features))
    layers.graph.output(deltas, 'deltas', ('rois', head.fc_reg.out_features))


def _mask_head(layers: LayerWriter, head: nn.Module, extractor: nn.Module) -> None:
    side = extractor.roi_layers[0].output_size
    features = layers.graph.input('features', ('rois', extractor.out_channels, *side))
    channels = head.conv_logits.out_channels
    layers.graph.output(HeadWriter(layers).mask_head(head, features), 'logits', ('rois', channels, None, None))
