"""Kinds of models: what calibration and the tools do differently for detectors and for classifiers, in one place."""

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn

from ..calibration.task import CalibrationTask
from ..core.pixel_levels import PixelLevels
from .normalisation import levels_of

# scope of mmengine's registries -> where its kind is, imported when a model or config of the kind is met
HOMES = {'mmpretrain': '.classification.kind', 'mmdet': '.detection'}


class ImageTask(CalibrationTask):
    """Calibration images as the pipeline of the evaluation packs them."""

    def idle_parts(self, model: nn.Module) -> list[str]:
        """Return the names of models inside `model` that no forward enters; they stay float."""
        return []

    def pixel_levels(self, model: nn.Module) -> PixelLevels | None:
        return levels_of(model)


class ModelKind(ABC):
    """Models of one of OpenMMLab's packages.

    Attributes:
        scope: of the package's registries.
        num_images: how many images calibrate if nobody says it, and the recipe needs no more.
        fidelity_images: how many images its outputs are compared on with those of the float model.
        tta_model: config of the wrapper for test-time augmentation, where the config names none.
    """

    scope: str
    num_images: int
    fidelity_images: int
    tta_model: dict[str, Any]

    @abstractmethod
    def task(self, images: Sequence[dict[str, Any]], scope: str, needs: set[str]) -> ImageTask:
        """Return the calibration task on packed images.

        Args:
            scope: of the quantization.
            needs: of the recipe, of 'loss' and 'predictions'.
        """

    @abstractmethod
    def outputs(self, model: nn.Module, task: ImageTask, index: int) -> dict[str, list[Tensor]]:
        """Return what `model` computes on one image of a task that has all parts (scope `all`), by part of the model.

        The task must run the float model first; outputs of other models then pair with its own, place by place.
        """

    @abstractmethod
    def init_model(self, config: Config, checkpoint: str, device: str) -> nn.Module:
        """Return the float model with its weights, in eval mode, with `cfg` and `dataset_meta`."""

    @abstractmethod
    def show(self, config: Config, args: Namespace) -> None:
        """Let the run paint its predictions as `--show`, `--show-dir` and `--wait-time` say."""

    @abstractmethod
    def dump(self, path: str) -> BaseMetric:
        """Return the metric that writes all predictions into a .pkl file."""

    @abstractmethod
    def with_flips(self, pipeline: list[Any]) -> list[Any]:
        """Return a test pipeline that packs every image twice, flipped and as it is."""


def kind_of(model: nn.Module) -> ModelKind:
    """Return the kind of a model: a classifier of mmpretrain, else a detector."""
    bases = (f'{base.__module__}.{base.__qualname__}' for base in type(model).__mro__)
    is_classifier = any(base == 'mmpretrain.models.classifiers.base.BaseClassifier' for base in bases)
    return kind_of_scope('mmpretrain' if is_classifier else 'mmdet')


def kind_of_config(config: Config) -> ModelKind:
    """Return the kind of a config, by its scope or the package of its model.

    Raises:
        ImportError: it needs packages that are not installed; says which, and how to install them.
    """
    kind = (config.get('model') or {}).get('type')
    name = kind if isinstance(kind, str) else f'{getattr(kind, "__module__", "")}.'
    return kind_of_scope(config.get('default_scope') or name.partition('.')[0])


def kind_of_scope(scope: str) -> ModelKind:
    """Return the kind of a registry scope; unknown ones are taken for detectors, as they always were."""
    return import_module(HOMES.get(scope, HOMES['mmdet']), __package__).KIND
