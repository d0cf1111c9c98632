"""What a detector computes on one image, part by part: the features, and what its heads say before any threshold."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from .two_stage import evaluated_part, is_known_two_stage, stages

# a part, or with a number behind a dot one of its levels or stages -> its tensors, in the order of the calls
Outputs = dict[str, list[Tensor]]
Note = Callable[[Outputs, Any], None]


@contextmanager
def watched_outputs(model: nn.Module) -> Iterator[Outputs]:
    """Collect the outputs of the detector that `model` evaluates while the block runs.

    Parts are `fpn.LEVEL` (the neck), `rpn_cls` and `rpn_reg` (all levels), `box_cls` and `box_reg` (`.STAGE` behind
    them in two-stage detectors) and `mask.STAGE` (logits). Left out is what the detector does not have, and heads that
    choose for themselves what they look at, whose outputs do not pair: region heads that are not mmdet's standard or
    cascade ones, and decoders of queries. A dense head's third output and those behind it are left out, too.
    """
    _, detector = evaluated_part(model)
    found: Outputs = defaultdict(list)
    with ExitStack() as stack:
        for module, note in _watched_parts(detector):
            handle = module.register_forward_hook(lambda _module, _args, output, note=note: note(found, output))
            stack.callback(handle.remove)
        yield found


def _watched_parts(detector: nn.Module) -> list[tuple[nn.Module, Note]]:
    parts: list[tuple[nn.Module, Note]] = []
    if getattr(detector, 'neck', None) is not None:
        parts.append((detector.neck, _note_levels))
    if isinstance(getattr(detector, 'rpn_head', None), BaseDenseHead):
        parts.append((detector.rpn_head, _pair_noter('rpn', '')))
    if is_known_two_stage(detector):
        for stage, head in enumerate(stages(detector.roi_head.bbox_head)):
            parts.append((head, _pair_noter('box', f'.{stage}')))
        masks = stages(detector.roi_head.mask_head) if detector.roi_head.with_mask else []
        parts += [(head, _single_noter(f'mask.{stage}')) for stage, head in enumerate(masks)]
    elif isinstance(getattr(detector, 'bbox_head', None), BaseDenseHead):
        parts.append((detector.bbox_head, _pair_noter('box', '')))
    return parts


def _note_levels(found: Outputs, output: Any) -> None:
    for level, features in enumerate(_tensors(output)):
        found[f'fpn.{level}'].append(features)


def _pair_noter(part: str, stage: str) -> Note:
    def note(found: Outputs, output: Any) -> None:
        for name, value in zip((f'{part}_cls{stage}', f'{part}_reg{stage}'), output, strict=False):
            found[name] += _tensors(value)

    return note


def _single_noter(name: str) -> Note:
    def note(found: Outputs, output: Any) -> None:
        found[name] += _tensors(output)

    return note


def _tensors(output: Any) -> list[Tensor]:
    """Return copies of the tensors of an output: what comes after may change them in place. A missing one is none."""
    listed = output if isinstance(output, (list, tuple)) else [output]
    return [tensor.detach().clone() for tensor in listed if isinstance(tensor, Tensor)]
