"""Detectors as a kind of model: mmdet's own tools, with what differs from classifiers."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from mmdet.apis import init_detector
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from torch import nn

from .detector import DetectorTask
from .model_kinds import ModelKind
from .outputs import Outputs, watched_outputs


class DetectorKind(ModelKind):
    """Models of mmdet, and all others that are no classifiers."""

    scope = 'mmdet'
    num_images = 1
    fidelity_images = 16  # with a hundred thousand and more numbers each
    tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))

    def task(self, images: Sequence[dict[str, Any]], scope: str, needs: set[str]) -> DetectorTask:
        return DetectorTask(images, with_masks=scope == 'all', with_labels='loss' in needs)

    def outputs(self, model: nn.Module, task: DetectorTask, index: int) -> Outputs:
        with watched_outputs(model) as found:
            task.forward(model, index)
        return found

    def init_model(self, config: Config, checkpoint: str, device: str) -> nn.Module:
        return init_detector(config, checkpoint, device=device)

    def show(self, config: Config, args: Namespace) -> None:
        trigger_visualization_hook(config, args)

    def dump(self, path: str) -> DumpDetResults:
        return DumpDetResults(out_file_path=path)

    def with_flips(self, pipeline: list[Any]) -> list[Any]:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='mmdet.RandomFlip', prob=1.0), dict(type='mmdet.RandomFlip', prob=0.0)]
        pack = dict(type='mmdet.PackDetInputs', meta_keys=keys)
        return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]


KIND = DetectorKind()
