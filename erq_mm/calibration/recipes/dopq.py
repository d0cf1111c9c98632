"""DopQ-ViT (arXiv 2408.03291): a tangent grid for attention, and the median channel scale for LayerNorm outputs."""

from typing import Any

from ...core.quantizers.tan import CENTRES
from ...core.spec import ACTIVATION_PERCENTILES
from .base import Recipe
from .closed_form import repq
from .reconstruction import reconstruction_step

NOTE = (
    'DopQ-ViT: reconstruction: the published formula was not available; the tangent grid (TanQ) follows the properties '
    'that the abstract names, the optimal scaling factor (MOSF) is the median of the channel scales'
)


METHOD = {'rounding': 'straight_through', 'iterations': 1000, 'rounding_lr': 4e-5, 'scale_lr': 4e-5}


def dopq(
    reconstruction: bool = True,
    preset: str = 'published',
    variant: str = 'both',
    criterion: str = 'output',
    exact_pad: bool = True,
    **options: Any,
) -> Recipe:
    """DopQ-ViT, as far as it is known: reconstruction: the published formula was not available.

    The block reconstruction trains weights and scales straight through, with the settings of I&S-ViT, on which the
    method builds; that paper's first stage, with channel-wise activations and float weights, is left out.

    Args:
        reconstruction: whether blocks are reconstructed after the quantizers are fitted.
        preset, options: of the reconstruction, see `recipes.reconstruction`.
        variant: of the tangent grid: `both`, dense near 0 and near 1; or `ones`, dense near 1.
        criterion: by which scale and steepness are chosen: `output`, the squared error of attention times values; or
            `values`, of the probabilities.
        exact_pad: see `repq`.
    """
    *prefix, last = dopq_steps(criterion, exact_pad)
    if reconstruction:
        last = reconstruction_step(preset, METHOD, options)
    elif options:
        raise ValueError(f'recipe dopq without reconstruction has no option {sorted(options)}')
    images = last.get('images') or 1
    return Recipe('dopq', (*prefix, last), activations=dopq_activations(variant), images=images, note=NOTE)


def dopq_steps(criterion: str = 'output', exact_pad: bool = True) -> tuple[dict[str, Any], ...]:
    """Return the steps that fit the quantizers, the last one those of the weights."""
    fit, reparameterize, fit_weights = repq(exact_pad).steps
    return fit, reparameterize | {'statistic': 'median'}, {'type': 'search_grids', 'criterion': criterion}, fit_weights


def dopq_activations(variant: str = 'both') -> dict[str, dict[str, Any]]:
    """Return the quantizers by role; raises ValueError for an unknown variant."""
    if variant not in CENTRES:
        raise ValueError(f'variant must be one of {tuple(CENTRES)}, got {variant!r}')
    percentiles = (*ACTIVATION_PERCENTILES, 1.0)
    return {
        'post_norm': {'granularity': 'channel'},
        'post_softmax': {'grid': 'tan', 'variant': variant, 'percentiles': percentiles},
    }
