"""AdaLog (ECCV 2024): logarithms of adaptive base for the inputs behind softmax and GELU."""

from .base import Recipe
from .closed_form import repq

BASES = {'extended': '', 'released': 'released'}


def adalog(
    criterion: str = 'output',
    beam: int = 16,
    steps: int = 4,
    bases: str = 'extended',
    exact_pad: bool = True,
) -> Recipe:
    """AdaLog without its optional block reconstruction; all other quantizers are those of `repq`.

    Scale and base are searched together, coarse to fine. Departures: one base for all heads of a layer (published: one
    per head), exact powers (released: a table of them), and the search covers the two adaptive grids only, where the
    released code searches uniform ones by outputs as well.

    Args:
        criterion: `output`, the squared error of attention times values and of fc2; or `values`, of the inputs.
        beam, steps: of the search; the paper has 4 steps, the released code 6, and a beam of 32 behind GELU.
        bases: `extended`, log2 of the base from 2/37; or `released`, from 10/37, which keeps errors up to 9 % at any
            bit-width.
        exact_pad: see `repq`.
    """
    if bases not in BASES:
        raise ValueError(f'bases must be one of {tuple(BASES)}, got {bases!r}')
    fit, reparameterize, fit_weights = repq(exact_pad).steps
    search = {'type': 'search_grids', 'criterion': criterion, 'beam': beam, 'steps': steps}
    return Recipe(
        'adalog',
        steps=(fit, reparameterize, search, fit_weights),
        activations={
            'post_norm': {'granularity': 'channel'},
            'post_softmax': {'grid': 'adaptive_log', 'variant': BASES[bases]},
            'post_gelu': {'grid': 'adaptive_log_gelu', 'variant': BASES[bases]},
        },
    )
