"""Choose scale and shape of the grids that have both by the outputs they lead to (AdaLog; DopQ-ViT's TanQ)."""

from collections.abc import Callable

from torch import Tensor

from ...core.grid_search import check_positive
from ...core.quantizers import SearchedQuantizer
from ...core.quantizers.searched import BEAM
from ..progress import track
from ..samples import SiteSamples, collect_samples
from ..state import Calibration, SiteState

CRITERIA = ('output', 'values')


def check_options(
    criterion: str = 'output', beam: int = BEAM, steps: int | None = None, rows: int = 256, pairs: int = 64
) -> set[str]:
    """Raise ValueError for an unknown criterion or a number that is not a positive integer; return no needs."""
    if criterion not in CRITERIA:
        raise ValueError(f'criterion must be one of {CRITERIA}, got {criterion!r}')
    for name, value in (('beam', beam), ('steps', steps), ('rows', rows), ('pairs', pairs)):
        if value is not None or name != 'steps':
            check_positive(name, value)
    return set()


def search_grids(
    calibration: Calibration,
    criterion: str = 'output',
    beam: int = BEAM,
    steps: int | None = None,
    rows: int = 256,
    pairs: int = 64,
) -> None:
    """Search again what `fit_activations` chose by the values alone.

    Quantizers without such a search, and those of which there are no samples, stay as they are.

    Args:
        criterion: `output`, the squared error of the product with the float weight or the other float operand, on
            samples of its inputs; or `values`, that of the quantized values themselves, on all of them.
        beam, steps: of `core.grid_search.progressive_search`; without `steps` the adaptive logarithm takes 4, the
            tangent 1, which tries everything.
        rows, pairs: samples of a layer, and of a product of activations (one window of one head is a pair).

    Raises:
        ValueError: as `check_options`.
    """
    check_options(criterion, beam, steps, rows, pairs)
    found = [
        (state, operand)
        for state in calibration.sites
        for operand, quantizer in enumerate(state.quantizers())
        if isinstance(quantizer, SearchedQuantizer) and quantizer.is_fitted
    ]
    samples: dict[str, SiteSamples] = {}
    if criterion == 'output' and found:
        samples = collect_samples(calibration, [state for state, _ in found], rows, pairs)
    for state, operand in track(calibration.progress, found, 'searching grids'):
        quantizer, sample, error = state.quantizers()[operand], samples.get(state.name), None
        if sample is not None and len(sample.inputs[0]):
            error = output_error(state, operand, sample.inputs)
        quantizer.search(state.histograms[operand], error, beam, steps)


def output_error(state: SiteState, operand: int, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """Return a function that gives the squared output error, a scalar, of one quantizer as it then is.

    Args:
        operand: whose quantizer; everything else stays float.
        inputs: as in `SiteSamples`: (rows, in), or (pairs, n, k) and (pairs, k, m).
    """
    x, quantizer = inputs[operand], state.quantizers()[operand]
    other = state.layer.weight_matrix().T if state.has_weight else inputs[1 - operand]

    def error() -> Tensor:
        change = quantizer.fake_quantize(x).sub_(x)
        return (change @ other if operand == 0 else other @ change).square_().sum()

    return error
