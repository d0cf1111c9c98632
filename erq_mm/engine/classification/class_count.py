"""A check that a data set has as many classes as the model: labels of others would be counted as errors in silence."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Raise ValueError before an evaluation or a training if the data set and the model differ in number of classes."""

    def before_train(self, runner: Runner) -> None:
        self._check(runner, runner.train_dataloader, 'train')

    def before_val(self, runner: Runner) -> None:
        self._check(runner, runner.val_dataloader, 'val')

    def before_test(self, runner: Runner) -> None:
        self._check(runner, runner.test_dataloader, 'test')

    def _check(self, runner: Runner, loader: Any, split: str) -> None:
        model = runner.model
        while is_model_wrapper(model) or not hasattr(model, 'num_classes'):
            model = getattr(model, 'module', None)
            if model is None:
                return  # of another kind, which does not say how many classes it has
        classes = loader.dataset.metainfo.get('classes')
        if classes is not None and len(classes) != model.num_classes:
            raise ValueError(
                f'the data set of {split}_dataloader has {len(classes)} classes ({", ".join(map(str, classes[:3]))}, '
                f'...) and the model gives {model.num_classes}: set model.num_classes={len(classes)} and give a '
                'checkpoint with as many, or another data set'
            )
