"""Eager PyTorch in float32 against eager PyTorch as integers, on Swin detectors of random weights.

Speed does not depend on the values of weights, so no checkpoint is needed. The integer model is quantized with `rtn`
and `deploy=True`, whose kernels are those of every recipe of these bits.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ...calibration.pipeline import quantize_
from ...engine.backends import BACKENDS
from ...engine.evaluation import load_config
from ...engine.roi_align import speed_up_roi_align_
from ...export.integer.operators import sums_saturate
from .timing import interleaved, speedup

MASK_RCNN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
IMAGE = (800, 1216)
CALIBRATION_IMAGE = (256, 320)
CLASS_SCORES = 40  # random class weights times this give about as many detections as a trained detector has
FLOAT, FLOAT_FAST = 'PyTorch fp32', 'PyTorch fp32, fast RoIAlign'


@dataclass(frozen=True)
class EagerRow:
    """One line of the table.

    Attributes:
        subject: what runs, with its input size.
        engine: `FLOAT`, or with bits.
        cpu_ms: median CPU time.
        speedup: of float32, median of the rounds; least and largest.
        integer: what the back end says, empty for float32.
    """

    subject: str
    engine: str
    cpu_ms: float
    speedup: tuple[float, float, float]
    integer: str = ''


def default_bits() -> tuple[tuple[int, int], ...]:
    """Return W8A8 and W4A8; W7A8 for W8A8 where the CPU's 16-bit sums exclude 8-bit weights."""
    return ((7 if sums_saturate() else 8), 8), (4, 8)


def measure_eager(
    subjects: Sequence[str] = ('backbone', 'detector'),
    bits: Sequence[tuple[int, int]] | None = None,
    image: tuple[int, int] = IMAGE,
    repeats: int = 5,
    config: str = MASK_RCNN,
    threads: int = 1,
) -> list[EagerRow]:
    """Return the rows of the eager engine: float32 first, then each pair of bits.

    Args:
        subjects: `backbone`, or `detector` in scope `all`, from the normalised image to pasted masks.
        bits: weight and activation bits; None is `default_bits`.
        image: height and width.
        repeats: interleaved rounds.
        config: of a two-stage detector.
        threads: of torch.

    Raises:
        ValueError: an unknown subject.
    """
    unknown = sorted(set(subjects) - set(SUBJECTS))
    if unknown:
        raise ValueError(f'subjects must be of {tuple(SUBJECTS)}, got {unknown}')
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        detector = random_detector(config)
        settings = default_bits() if bits is None else bits
        return [row for subject in subjects for row in _rows(subject, detector, settings, image, repeats)]
    finally:
        torch.set_num_threads(before)


def random_detector(config: str = MASK_RCNN, seed: int = 0) -> nn.Module:
    """Return a detector of random weights that finds about as many objects as a trained one."""
    loaded = load_config(config)
    init_default_scope(loaded.get('default_scope') or 'mmdet')
    loaded.model.backbone.init_cfg = None
    torch.manual_seed(seed)
    detector = MODELS.build(loaded.model).eval()
    with torch.no_grad():
        detector.roi_head.bbox_head.fc_cls.weight.mul_(CLASS_SCORES)
    return detector


def _rows(
    subject: str, detector: nn.Module, bits: Sequence[tuple[int, int]], image: tuple[int, int], repeats: int
) -> list[EagerRow]:
    model, run = SUBJECTS[subject](detector)
    models, summaries = {FLOAT: model}, {}
    if subject == 'detector':
        models[FLOAT_FAST] = copy.deepcopy(model)
        speed_up_roi_align_(models[FLOAT_FAST])
    for w_bits, a_bits in bits:
        name = f'PyTorch int8, W{w_bits}A{a_bits}'
        models[name] = copy.deepcopy(model)
        summaries[name] = _deploy(models[name], run, w_bits, a_bits)
    x = _random_image(image)
    seconds = interleaved({name: lambda m=m: run(m, x) for name, m in models.items()}, repeats)
    title = f'{subject} {image[0]}x{image[1]}'
    return [
        EagerRow(title, name, 1e3 * median(times), speedup(seconds[FLOAT], times), summaries.get(name, ''))
        for name, times in seconds.items()
    ]


def _deploy(model: nn.Module, run: Callable[[nn.Module, Tensor], Any], w_bits: int, a_bits: int) -> str:
    x, recipe = _random_image(CALIBRATION_IMAGE), {'type': 'rtn', 'deploy': True}
    quantize_(model, lambda m: run(m, x), recipe, w_bits, a_bits, 'all', same_function=False, full_account=False)
    return BACKENDS['int8'](model, None)


def _random_image(size: tuple[int, int]) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


class _Backbone(nn.Module):
    """The backbone below a root, as layers must be children."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(x)


def _detect(detector: nn.Module, x: Tensor) -> list[DetDataSample]:
    size = tuple(x.shape[2:])
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0), img_id=0))
    return detector.predict(x, [sample])


SUBJECTS: dict[str, Callable[[nn.Module], tuple[nn.Module, Callable[[nn.Module, Tensor], Any]]]] = {
    'backbone': lambda detector: (_Backbone(detector), lambda model, x: model(x)),
    'detector': lambda detector: (detector, _detect),
}
