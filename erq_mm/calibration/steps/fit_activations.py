"""Fit every activation quantizer to all calls of all calibration forwards of the float model."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.histogram import Histogram
from ...core.quantizers import Quantizer
from ...core.spec import QuantSpec
from ..degenerate import warn_of_inputs
from ..progress import track
from ..state import Calibration, SiteState, watch_inputs

TENSOR_BINS = 4096
CHANNEL_BINS = 1024


def fit_activations(calibration: Calibration, every: int = 1) -> None:
    """Collect histograms in one pass, then choose ranges.

    A quantizer whose input never came (no proposals reached its head) stays off: that input remains float, the weights
    are rounded to nearest, and the report says so. Channel-wise ranges are left to the step `reparameterize`.

    Args:
        every: of the values of an activation every n-th is counted; minimum and maximum are those of all.

    Raises:
        FloatingPointError: NaN or infinity in an activation, naming the layer.
        ValueError: `every` is not a positive integer.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f'fit_activations: every must be a positive integer, got {every!r}')
    quantizers, observers = [], []
    for state in calibration.sites:
        for quantizer, spec, role in zip(state.quantizers(), state.input_specs, state.site.roles, strict=True):
            histogram = _new_histogram(state, spec, quantizer.scale.device, every)
            state.histograms.append(histogram)
            quantizers.append(quantizer)
            observers.append(_observer(f'{state.name} ({role})', quantizer, histogram))
    calibration.run(watch_inputs(quantizers, observers))
    for state in track(calibration.progress, calibration.sites, 'fitting activations'):
        _fit_site(state)
    warn_of_inputs(calibration)


def _new_histogram(state: SiteState, spec: QuantSpec, device: torch.device, every: int) -> Histogram:
    if spec.granularity == 'channel':
        return Histogram(state.layer.weight_matrix().shape[1], CHANNEL_BINS, device, every)
    return Histogram(1, TENSOR_BINS, device, every)


def _observer(name: str, quantizer: Quantizer, histogram: Histogram) -> Callable[[Tensor], None]:
    def observe(x: Tensor) -> None:
        try:
            quantizer.observe(x, histogram)
        except FloatingPointError as error:
            raise FloatingPointError(
                f'{error} at the input of {name} during calibration: check the checkpoint and the calibration images'
            ) from None

    return observe


def _fit_site(state: SiteState) -> None:
    for index, (quantizer, spec) in enumerate(zip(state.quantizers(), state.input_specs, strict=True)):
        histogram = state.histograms[index]
        if histogram.is_empty and not quantizer.ignores_zeros:
            state.report.note = 'no calibration rows: input left float, weights rounded to nearest'
            state.report.a_bits = None
        elif not spec.is_folded:
            quantizer.fit(histogram)
