"""Options of the step `sequential`."""

from dataclasses import dataclass

MARGIN, MARGIN_OF_COPIES = 1.1, 0.1
REACHING_BITS = 7  # from which on rounding in a wide range costs less than what is clipped on other images


@dataclass(frozen=True)
class SequentialOptions:
    """How layers are fitted one after the other.

    Attributes:
        rows: the most rows of a layer that are kept, of all images together.
        damping: of the regression on activation errors, as a share of the mean diagonal of the Gram matrix; None takes
            a tenth of the columns per row, from 0.001 to 10, or more where that is better on held-back images.
        correct: whether weights are corrected for activation errors at all.
        code_damping: of the metric in which codes are chosen, where `correct` is off.
        margin: factor by which the ranges of inputs are widened; None takes 1.1, or more where copies make up for
            images.
        reach: from seven bits on the range of every channel of an input goes as far as the farthest one's, or as great
            a part of that as rounding costs this share of the input's variance; 0 leaves every channel to itself.
        clipping: search the ranges of inputs; False takes those of `fit_activations`, the published ones.
        token_weights: divide the errors of a token by the variance of the stream that its sublayer ends in.
        region_weights: let errors of regions count little that the float model takes for background, and less of those
            that show an object others show with a better score, in the heads that look at regions.
        mixed_regions: how many more regions are made of those of every image, for the heads that look at regions.
        balance: give queries, keys and values coordinates in which one range serves all channels (`core.balance`).
        residual_target: let the last layer of a sublayer correct the error of the stream it is added to.
        dealing: give hidden units whose rounding costs most the places of others (`dealing`); where inputs have tables.
        tuning: steps in which scales, LayerNorms and biases of every block are trained once its layers are fitted.
    """

    rows: int = 8192
    damping: float | None = None
    correct: bool = True
    code_damping: float = 0.1
    margin: float | None = None
    reach: float = 0.0003
    clipping: bool = True
    token_weights: bool = True
    region_weights: bool = True
    mixed_regions: int = 1200
    balance: bool = True
    residual_target: bool = True
    dealing: bool = True
    tuning: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise ValueError(f'sequential rows must be a positive integer, got {self.rows!r}')
        for name in ('tuning', 'mixed_regions'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f'sequential {name} must be a whole number, got {value!r}')
        for name in ('damping', 'code_damping', 'margin'):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f'sequential {name} must be positive, got {value!r}')
        if isinstance(self.reach, bool) or not 0 <= self.reach <= 1:
            raise ValueError(f'sequential reach must be a share of the variance from 0 to 1, got {self.reach!r}')

    def share(self, rows: int, columns: int) -> float:
        """Return the damping of a layer as a share of the mean diagonal of its Gram matrix."""
        if not self.correct:
            return self.code_damping
        if self.damping is not None:
            return self.damping
        return min(max(0.1 * columns / max(rows, 1), 0.001), 10.0)

    def widening(self, images: int, views: int) -> float:
        """Return the margin for so many images, altered copies of them included in the views."""
        if self.margin is not None:
            return self.margin
        return MARGIN + (MARGIN_OF_COPIES / images if views > images else 0.0)

    def reach_at(self, bits: int) -> float:
        """Return the share of the variance that rounding to so many bits may cost for the sake of the ranges."""
        return self.reach if bits >= REACHING_BITS else 0.0
