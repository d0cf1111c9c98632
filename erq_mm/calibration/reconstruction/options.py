"""How a reconstruction is run, as one value; the differences between the published methods are its fields."""

from dataclasses import dataclass

from ...core.adaround import ROUNDINGS

UNITS = ('block', 'layer')
METRICS = ('mse', 'fisher', 'perturbation')
INPUTS = ('float', 'quantized')
OUTSIDE = ('all', 'neck', 'none')


@dataclass(frozen=True)
class ReconstructionOptions:
    """Options of the step `reconstruct`.

    Attributes:
        unit: `block` (Swin blocks, patch merging, patch embedding; everything else layer by layer) or `layer`.
        iterations: per unit; layer_iterations: per unit that is a single layer, None for as many.
        images: how many of the calibration images are used, None for all.
        rounding: `adaround`, or `straight_through` (the weights themselves are trained).
        rounding_lr: Adam's learning rate of V (`adaround`) or of the weights.
        scale_lr: Adam's learning rate of the activation scales, with cosine decay to 0; 0 leaves the scales.
        inputs: what a unit sees: of the `quantized` model so far, or of the `float` one.
        drop: probability with which an element of the unit's input and of every activation stays float (QDrop).
        metric: weight of a squared error: none (`mse`), the squared gradient of the loss (`fisher`, BRECQ), or the
            average perturbation Hessian of the predictions (`perturbation`, APHQ-ViT).
        global_weight: of the divergence of the model's predictions behind the block (PD-Quant, MGRQ).
        global_every: iterations between two evaluations of that term.
        local_weight: of the divergence of the outputs of the layers inside the block (MGRQ).
        relative_terms: divide every term by its first value, so that weights compare (MGRQ); that of the regularizer is
            then also independent of the size of a layer's outputs.
        regularization: weight of AdaRound's regularizer; beta_start, beta_stop, warmup: its schedule.
        rows: calibration rows kept per layer unit; batch_rows: rows per iteration.
        outside: which layers outside the blocks are reconstructed too: `all`, those of the `neck`, or `none`; the
            others are calibrated and rounded to nearest.
        perturbation: D of the `perturbation` metric, relative to the root mean square of the output.
    """

    unit: str = 'block'
    iterations: int = 20000
    layer_iterations: int | None = None
    images: int | None = None
    rounding: str = 'adaround'
    rounding_lr: float = 1e-3
    scale_lr: float = 0.0
    inputs: str = 'quantized'
    drop: float = 0.0
    metric: str = 'mse'
    global_weight: float = 0.0
    global_every: int = 1
    local_weight: float = 0.0
    relative_terms: bool = False
    regularization: float = 0.01
    beta_start: float = 20.0
    beta_stop: float = 2.0
    warmup: float = 0.2
    rows: int = 8192
    batch_rows: int = 1024
    outside: str = 'all'
    perturbation: float = 1e-3

    def __post_init__(self) -> None:
        for name, choices in (
            ('unit', UNITS), ('rounding', tuple(ROUNDINGS)), ('inputs', INPUTS), ('metric', METRICS),
            ('outside', OUTSIDE),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f'reconstruction {name} must be one of {choices}, got {getattr(self, name)!r}')
        for name in ('iterations', 'layer_iterations', 'global_every', 'rows', 'batch_rows'):
            if name == 'layer_iterations' and self.layer_iterations is None:
                continue
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f'reconstruction {name} must be a positive integer, got {getattr(self, name)!r}')
        for name in ('rounding_lr', 'perturbation'):
            if not getattr(self, name) > 0:
                raise ValueError(f'reconstruction {name} must be positive, got {getattr(self, name)!r}')
        for name in ('scale_lr', 'global_weight', 'local_weight', 'regularization'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'reconstruction {name} must not be negative, got {getattr(self, name)!r}')
        for name in ('drop', 'warmup'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'reconstruction {name} must be in [0, 1), got {getattr(self, name)!r}')
        if self.images is not None and self.images < 1:
            raise ValueError(f'reconstruction images must be positive or None, got {self.images!r}')
        if self.unit == 'layer' and (self.metric != 'mse' or self.global_weight or self.local_weight):
            raise ValueError(
                f"reconstruction unit='layer' knows the squared error only, got metric={self.metric!r}, "
                f"global_weight={self.global_weight}, local_weight={self.local_weight}: use unit='block'"
            )

    def iterations_of(self, is_block: bool) -> int:
        """Return the number of iterations of a block, or of a single layer."""
        return self.iterations if is_block or self.layer_iterations is None else self.layer_iterations

    def needs(self) -> set[str]:
        """Return what the calibration task must give, of 'loss' and 'predictions'."""
        found = {'loss'} if self.metric == 'fisher' else set()
        return found | ({'predictions'} if self.metric == 'perturbation' or self.global_weight else set())
