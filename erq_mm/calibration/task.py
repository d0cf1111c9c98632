"""What calibration may ask of its images: forwards always; a loss or dense predictions where a method needs them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.pixel_levels import PixelLevels

Predictions = tuple[Tensor, ...]


class CalibrationTask(ABC):
    """Calibration images, run through a model one at a time; called with the model it runs all of them.

    The first run is of the float model, and may be remembered: later ones must send the same rows through every layer.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def forward(self, model: nn.Module, index: int) -> None:
        """Run one image."""

    def groups(self) -> list[list[int]]:
        """Return all images in the groups in which plain forwards run them; the first group is the first image."""
        return [[index] for index in range(len(self))]

    def forward_group(self, model: nn.Module, indices: Sequence[int]) -> None:
        """Run the images of a group: the rows of every layer are those of one image after the other."""
        for index in indices:
            self.forward(model, index)

    def check(self, model: nn.Module) -> None:  # noqa: B027  (most tasks have nothing to check)
        """Raise ValueError if the forwards of all images have shown that these cannot calibrate the model."""

    def identity(self) -> list[Any]:
        """Return what tells these images from others (ids), to recognise results that were computed with them."""
        return [len(self)]

    def pixel_levels(self, model: nn.Module) -> PixelLevels | None:
        """Return mean and deviation with which the model gets its images normalised, or None where they are not known.

        Whether they are right is seen on the first image.
        """
        return None

    def offers(self, model: nn.Module) -> set[str]:
        """Return what else there is with this model, of 'loss' (`HasLoss`) and 'predictions' (`HasPredictions`)."""
        kinds = (('loss', HasLoss), ('predictions', HasPredictions))
        return {name for name, protocol in kinds if isinstance(self, protocol)}

    def with_copies(self, count: int, seed: int) -> 'CalibrationTask':
        """Return a task that runs `count` altered copies of every image as well, where the images can be altered."""
        return self

    def sources(self) -> int:
        """Return the number of images that are no altered copies."""
        return len(self)

    def pairs_rows(self, model: nn.Module, name: str) -> bool:
        """Whether layer `name` gets the same rows, in the same order, from the float and from the quantized model.

        Where it does not, because the model itself chooses what its later layers look at, rows cannot be compared.
        """
        return True

    def relevance(self, model: nn.Module, name: str, indices: Sequence[int]) -> Tensor | None:
        """Return how much errors of rows of layer `name` count, not negative, in the order of the rows.

        Args:
            indices: images that run one after the other, as in `forward_group`; they have been run.

        Returns:
            (n,), each for as many successive rows, as convolutions have, as there are per entry; None where all count
            alike.
        """
        return None

    def more_rows(
        self, model: nn.Module, name: str, indices: Sequence[int], x: Tensor, count: int, seed: int
    ) -> Callable[[Tensor], Tensor] | None:
        """Return what appends rows to the input of layer `name`, of any model, that none of the images shows.

        Args:
            model: the float model.
            indices: as in `relevance`, which from now on knows of the new rows, too.
            x: the layer's input in this model.
            count: of the new rows. seed: of their choice.

        Returns:
            None where no rows can be made.
        """
        return None

    def __call__(self, model: nn.Module) -> None:
        for indices in self.groups():
            self.forward_group(model, indices)
        self.check(model)


@runtime_checkable
class HasLoss(Protocol):
    """A task with the model's own loss, for methods that weigh errors by gradients."""

    def loss(self, model: nn.Module, index: int) -> Tensor:
        """Return the loss of one image, a scalar with gradients, against what the float model predicts."""


@runtime_checkable
class HasPredictions(Protocol):
    """A task with dense predictions, for methods that compare the quantized model's outputs with the float model's."""

    def predict(self, model: nn.Module, index: int) -> Predictions:
        """Return the dense predictions of one image, with gradients where they are enabled."""

    def divergence(self, predictions: Predictions, reference: Predictions) -> Tensor:
        """Return how far `predictions` are from those of the float model, a scalar >= 0."""


class FunctionTask(CalibrationTask):
    """A plain function that runs all calibration forwards, as one image."""

    def __init__(self, run_calibration: Callable[[nn.Module], Any]) -> None:
        self.run_calibration = run_calibration

    def __len__(self) -> int:
        return 1

    def forward(self, model: nn.Module, index: int) -> None:
        self.run_calibration(model)


class ClassifierTask(CalibrationTask):
    """Batches of inputs of a model that returns logits, (batch, classes).

    The loss is the cross-entropy against the classes that the float model predicts; predictions are the logits.

    Args:
        batches: what the model is called with, one tensor each.
        temperature: of the divergence KL(softmax(reference / T) || softmax(logits / T)).
        levels: mean and deviation, in pixels, of 8-bit images in the batches; with them the image is quantized exactly.
    """

    def __init__(self, batches: Sequence[Tensor], temperature: float = 1.0, levels: PixelLevels | None = None) -> None:
        if not batches:
            raise ValueError('calibration needs at least one batch, got none')
        self.batches, self.temperature, self.levels = list(batches), temperature, levels
        self._classes: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def forward(self, model: nn.Module, index: int) -> None:
        logits = model(self.batches[index])
        self._classes.setdefault(index, logits.detach().argmax(-1))

    def pixel_levels(self, model: nn.Module) -> PixelLevels | None:
        return self.levels

    def loss(self, model: nn.Module, index: int) -> Tensor:
        logits = model(self.batches[index])
        classes = self._classes.setdefault(index, logits.detach().argmax(-1))
        return F.cross_entropy(logits.flatten(0, -2), classes.flatten())

    def predict(self, model: nn.Module, index: int) -> Predictions:
        return (model(self.batches[index]),)

    def divergence(self, predictions: Predictions, reference: Predictions) -> Tensor:
        return logit_divergence(predictions[0], reference[0], self.temperature)


def logit_divergence(logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(softmax(reference / T) || softmax(logits / T)), the mean over a batch, (batch, classes)."""
    log_p, log_q = (t.div(temperature).log_softmax(-1) for t in (reference, logits))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def as_task(run_calibration: Callable[[nn.Module], Any]) -> CalibrationTask:
    """Return a task as it is, and any other function wrapped."""
    return run_calibration if isinstance(run_calibration, CalibrationTask) else FunctionTask(run_calibration)


def check_task(task: CalibrationTask, model: nn.Module, needs: set[str], recipe: str, images: int) -> None:
    """Raise ValueError if `task` lacks what a recipe needs.

    Args:
        needs: of 'loss' and 'predictions'.
        images: the least number of images; a plain function's are not counted.
    """
    for need in sorted(needs - task.offers(model)):
        raise ValueError(
            f'recipe {recipe!r} needs the {need} of the model, and {type(task).__name__} gives none for '
            f'{type(model).__name__}: pass quantize_ a task that does (erq_mm.ClassifierTask for logits; ERQHook does '
            'for classifiers, and for Mask and Cascade R-CNN whose config has a train_cfg), or choose another recipe'
        )
    if not isinstance(task, FunctionTask) and len(task) < images:
        raise ValueError(
            f'recipe {recipe!r} asks for at least {images} calibration images and gets {len(task)}: raise '
            f"calibration.num_images, or lower the recipe's option `images`"
        )
