"""Layer steps of recipes on sequential rows: the error of a layer's input is that of the layers before it, too."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...core.reparameterization import Reparameterization
from ...core.statistics import input_stats
from ..state import SiteState
from .products import ProductSample
from .rows import Rows
from .streams import Stop


class LayerStepFitter:
    """Gives a layer its statistics and has its steps applied; grids of activations stay as they were fitted.

    With x of the float model and x_q of the quantized one, on the layer's own grid, the sums that ERQ needs are those
    of `GramStats` as they are.

    Args:
        apply: runs the steps of a recipe on a layer, and installs it.
        sampled_rows: rows kept of very wide layers.
        seed: of their choice.
    """

    changes: Mapping[str, Reparameterization] = MappingProxyType({})
    samples_products = False
    tunes_blocks = False

    def __init__(self, apply: Callable[[SiteState], None], sampled_rows: int, seed: int) -> None:
        self.apply, self.sampled_rows, self.seed = apply, sampled_rows, seed

    def fit(self, state: SiteState, rows: Rows) -> None:
        quantizer = state.quantizers()[0]
        if quantizer.is_fitted:
            state.stats = input_stats(state.layer.weight_matrix(), self.sampled_rows, self.seed)
            state.stats.add(rows.x, quantizer.fake_quantize(rows.x_q))
        self.apply(state)
        state.activate()

    def fit_products(self, states: Sequence[SiteState], _samples: Mapping[str, ProductSample]) -> None:
        for state in states:
            state.activate()

    def leave(self, state: SiteState) -> None:
        if state.has_weight and not state.layer.has_quantized_weight:
            self.apply(state)
        state.activate()

    def tune(self, name: str, states: Sequence[SiteState], stops: Sequence[Stop], outputs: Sequence[Any]) -> None:
        """Nothing: the steps of these recipes are those of layers."""
