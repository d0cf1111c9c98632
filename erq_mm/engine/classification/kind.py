"""Classifiers as a kind of model: mmpretrain's classifiers, timm's among them."""

import copy
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from ..model_kinds import ModelKind
from .task import ClassificationTask


class ClassifierKind(ModelKind):
    """Models of mmpretrain that derive from `BaseClassifier`."""

    scope = 'mmpretrain'
    fidelity_images = 64  # with one row of logits each
    num_images = 32  # as in the papers of ERQ, RepQ-ViT, PTQ4ViT and DopQ-ViT
    tta_model = dict(type='mmpretrain.AverageClsScoreTTA')

    def task(self, images: Sequence[dict[str, Any]], scope: str, needs: set[str]) -> ClassificationTask:
        return ClassificationTask(images)

    def outputs(self, model: nn.Module, task: ClassificationTask, index: int) -> dict[str, list[Tensor]]:
        return {'logits': list(task.predict(model, index))}

    def init_model(self, config: Config, checkpoint: str, device: str) -> nn.Module:
        init_default_scope(config.get('default_scope') or self.scope)
        model = MODELS.build(config.model)
        loaded = load_checkpoint(model, checkpoint, map_location='cpu')
        model.dataset_meta = loaded.get('meta', {}).get('dataset_meta') or _meta_of(config)
        model.cfg = config
        return model.to(device).eval()

    def show(self, config: Config, args: Namespace) -> None:
        if args.tta:
            raise ValueError(
                '--tta gives several views of an image, of which mmpretrain paints none with --show or --show-dir: '
                'leave one of them out'
            )
        hook = config.setdefault('default_hooks', {}).setdefault('visualization', dict(type='VisualizationHook'))
        hook.update(enable=True, interval=1, show=args.show, wait_time=args.wait_time, out_dir=args.show_dir)

    def dump(self, path: str) -> DumpResults:
        return DumpResults(out_file_path=path)

    def with_flips(self, pipeline: list[Any]) -> list[Any]:
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pipeline[-1]]])]


def _meta_of(config: Config) -> dict[str, Any]:
    """Return what the test data set says about itself: the names of its classes."""
    return dict(DATASETS.build(copy.deepcopy(config.test_dataloader.dataset)).metainfo)


KIND = ClassifierKind()
