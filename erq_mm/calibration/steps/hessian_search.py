"""Search all scales by the output errors they lead to, weighted by the gradients of the loss (PTQ4ViT, ECCV 2022)."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...core.line_search import scale_factors
from ...core.output_search import importance_of, search_layer, search_operand
from ...core.quantizers import LineSearchedQuantizer
from ...core.weight_grid import fit_weight_grid, round_to_nearest, row_groups
from ..progress import track
from ..samples import SiteSamples, collect_samples
from ..state import Calibration, SiteState

METRICS = ('hessian', 'mse')
NO_GRADIENT = 'no gradient of the loss reaches its samples: scales searched for the plain squared error'
OVERSAMPLING = 4  # gradients are sparse (RPN) and heavy-tailed: a quarter of the rows has nearly all of the metric


@dataclass(frozen=True)
class SearchOptions:
    """Options of the step `hessian_search`.

    Attributes:
        candidates, alpha, beta: scales tried are the first one times alpha + i / candidates (beta - alpha), i from 0 to
            `candidates`.
        rounds: of weight given input, then input given weight.
        rows, pairs: samples of a layer, and of a product of activations (one window of one head is a pair), that the
            search works on. With gradients, those of largest gradient among four times as many.
        metric: `hessian`, squared errors times squared gradients of the loss; or `mse`, plain ones.
    """

    candidates: int = 100
    alpha: float = 0.01
    beta: float = 1.2
    rounds: int = 3
    rows: int = 256
    pairs: int = 64
    metric: str = 'hessian'

    def __post_init__(self) -> None:
        for name in ('candidates', 'rounds', 'rows', 'pairs'):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f'hessian_search {name} must be a positive integer, got {value!r}')
        if not 0 < self.alpha < self.beta < math.inf:
            raise ValueError(f'hessian_search needs 0 < alpha < beta, got alpha={self.alpha!r}, beta={self.beta!r}')
        if self.metric not in METRICS:
            raise ValueError(f'hessian_search metric must be one of {METRICS}, got {self.metric!r}')

    def needs(self) -> set[str]:
        """Return what the calibration task must give, of 'loss' and 'predictions'."""
        return {'loss'} if self.metric == 'hessian' else set()

    def factors(self) -> list[float]:
        """Return what the first scales are multiplied by."""
        return scale_factors(self.candidates, self.alpha, self.beta)


def hessian_search(calibration: Calibration, **options: Any) -> None:
    """Search the scales of weights and inputs, site by site on samples of the float model, and quantize the weights.

    Gradients are those of the task's loss at the float model, where the published code takes them of a divergence that
    is zero there but for rounding errors. Sites that no gradient reaches, or that the loss never calls, are searched
    for the plain squared error, and the report says so. Layers without samples are rounded to nearest.

    Args:
        options: fields of `SearchOptions`.
    """
    chosen = SearchOptions(**options)
    samples = _samples(calibration, chosen)
    for state in track(calibration.progress, calibration.sites, 'searching scales'):
        _search_site(state, samples.pop(state.name), chosen)


def _samples(calibration: Calibration, options: SearchOptions) -> dict[str, SiteSamples]:
    sizes = {'rows': options.rows, 'pairs': options.pairs}
    if options.metric == 'mse':
        return collect_samples(calibration, calibration.sites, **sizes)
    more = {name: OVERSAMPLING * size for name, size in sizes.items()}
    samples = collect_samples(calibration, calibration.sites, **more, with_gradients=True)
    for state in calibration.sites:
        samples[state.name] = _heaviest(samples[state.name], options.rows if state.has_weight else options.pairs)
    not_called = [state for state in calibration.sites if not len(samples[state.name].inputs[0])]
    return samples | (collect_samples(calibration, not_called, **sizes) if not_called else {})


def _heaviest(samples: SiteSamples, count: int) -> SiteSamples:
    """Return the `count` samples of largest gradient norm; the first ones where all are zero."""
    norms = samples.gradients.flatten(1).norm(dim=1)
    kept = norms.argsort(descending=True, stable=True)[:count]
    return SiteSamples(tuple(part[kept] for part in samples.inputs), samples.gradients[kept])


def _search_site(state: SiteState, samples: SiteSamples, options: SearchOptions) -> None:
    importance = importance_of(samples.gradients)
    is_sampled = len(samples.inputs[0]) > 0
    if is_sampled and importance is None and options.metric == 'hessian':
        state.report.note = NO_GRADIENT
    if state.has_weight:
        _quantize_layer(state, samples.inputs[0], importance, options)
    elif is_sampled:
        for operand, quantizer in enumerate(state.quantizers()):
            if isinstance(quantizer, LineSearchedQuantizer):
                search_operand(quantizer, operand, samples.inputs, importance, options.factors())


def _quantize_layer(state: SiteState, x: Tensor, importance: Tensor | None, options: SearchOptions) -> None:
    layer, (quantizer,) = state.layer, state.quantizers()
    weight, spec = layer.weight_matrix().clone(), layer.weight_spec
    grid = fit_weight_grid(weight, spec)
    if len(x):
        group = row_groups(len(weight), spec.variant).to(weight.device)
        grid = search_layer(weight, grid, group, quantizer, x, importance, options.factors(), options.rounds)
    quantized = round_to_nearest(weight, None if layer.bias is None else layer.bias.detach().clone(), grid)
    if len(x):
        _record(state, x, weight, quantized.weight)
    layer.install_(quantized)


def _record(state: SiteState, x: Tensor, weight: Tensor, weight_q: Tensor) -> None:
    """Put the output errors on the samples into the report."""
    x_q, report = state.layer.input_quantizer.fake_quantize(x), state.report
    target = x @ weight.T
    signal, noise = float(target.square().mean()), float((x_q @ weight_q.T).sub_(target).square_().mean())
    report.rows = len(x)
    report.output_mse = {'activation': float(((x_q - x) @ weight.T).square_().mean()), 'hessian_search': noise}
    if signal > 0 and noise > 0:
        report.sqnr_db = 10 * math.log10(signal / noise)
