"""What is timed: backbones and a whole detector with random weights, float and quantized."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ...calibration.pipeline import quantize_
from ...engine.detector import DetectorTask
from ...engine.evaluation import load_config
from ...nn import QuantMatMul

MASK_RCNN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py'
SWIN = {  # embed_dims, depths, num_heads
    't': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    's': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    'b': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


@dataclass(frozen=True)
class Subject:
    """One model at one image size.

    Attributes:
        kind: `t`, `s` or `b`, a Swin backbone; or `mask_rcnn`, the whole detector with its Swin-T.
        height, width: of the image.
    """

    kind: str
    height: int
    width: int

    @property
    def name(self) -> str:
        """What tables call it."""
        model = 'Mask R-CNN Swin-T' if self.is_whole else f'Swin-{self.kind.upper()} backbone'
        return f'{model} {self.height}x{self.width}'

    @property
    def is_whole(self) -> bool:
        return self.kind == 'mask_rcnn'

    @property
    def scope(self) -> str:
        return 'all' if self.is_whole else 'linears'


SUBJECTS = {
    'backbone': Subject('t', 800, 1216),
    'swin_t_224': Subject('t', 224, 224),
    'swin_s_224': Subject('s', 224, 224),
    'swin_b_224': Subject('b', 224, 224),
    'mask_rcnn': Subject('mask_rcnn', 800, 1216),
}


class Backbone(nn.Module):
    """A backbone under its usual name."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(image))


def build_float(subject: Subject) -> nn.Module:
    """Return the float model with random weights and LayerNorms that are not trivial."""
    torch.manual_seed(0)
    if subject.is_whole:
        init_default_scope('mmdet')
        config = load_config(MASK_RCNN).model
        config.backbone.init_cfg = None
        config.test_cfg.rcnn.score_thr = 0.0  # random scores are low, and the mask head has to run on 100 boxes
        model = MODELS.build(config)
        model.init_weights()
    else:
        dims, depths, heads = SWIN[subject.kind]
        model = Backbone(SwinTransformer(embed_dims=dims, depths=depths, num_heads=heads))
    unsettle_norms_(model)
    model.eval()
    return model


@torch.no_grad()
def unsettle_norms_(model: nn.Module) -> None:
    """Give LayerNorms gains and biases that are not one and zero, as trained ones have."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.mul_(torch.randn_like(module.weight).mul_(0.3).exp_())
            module.bias.add_(0.2 * torch.randn_like(module.bias))


def build_quantized(model: nn.Module, subject: Subject, w_bits: int, a_bits: int) -> nn.Module:
    """Return a quantized copy on grids that kernels have, calibrated on a small image: values do not decide speed."""
    model = copy.deepcopy(model)
    recipe = {'type': 'rtn', 'deploy': True}
    if subject.is_whole:
        small = replace(subject, height=256, width=320)
        task: Any = DetectorTask([_sample(small)], with_masks=True)
    else:
        task = lambda m: m(torch.randn(1, 3, 112, 112))  # noqa: E731
    quantize_(model, task, recipe, w_bits, a_bits, subject.scope)
    for module in model.modules():
        if isinstance(module, QuantMatMul):  # float wherever it is deployed
            module.left_quantizer.is_active = module.right_quantizer.is_active = False
    return model


def runner(model: nn.Module, subject: Subject) -> Callable[[], object]:
    """Return a function without arguments that runs the model on one image of the subject's size."""
    if not subject.is_whole:
        image = torch.randn(1, 3, subject.height, subject.width, generator=torch.Generator().manual_seed(0))
        return torch.no_grad()(lambda: model(image))
    sample = _sample(subject)
    return torch.no_grad()(
        lambda: model.test_step(pseudo_collate([sample | {'data_samples': sample['data_samples'].clone()}]))
    )


def _sample(subject: Subject) -> dict[str, Any]:
    size = subject.height, subject.width
    coarse = torch.rand(1, 3, size[0] // 16, size[1] // 16, generator=torch.Generator().manual_seed(0)) * 255
    picture = nn.functional.interpolate(coarse, size, mode='bicubic').clamp(0, 255)[0].byte()
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=0))
    return {'inputs': picture, 'data_samples': sample}
