"""How much of each layer's output error a component of ERQ removes (ERQ, Figures 5 to 9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QUANTIZED = ('wqer', 'fit_weights')  # the last step of a report, whichever it has


@dataclass(frozen=True)
class Component:
    """One component.

    Attributes:
        options: of the recipe `erq` that has only this component.
        is_weight: whether it acts on the rounded weight, else on the float weight.
    """

    name: str
    options: Mapping[str, Any]
    is_weight: bool


BASE = {'aqer': False, 'ridge': False, 'rounding': None}
COMPONENTS = (
    Component('Aqer', {'ridge': False, 'rounding': None}, is_weight=False),
    Component('Rounding', {'aqer': False, 'ridge': False}, is_weight=True),
    Component('Ridge', {'aqer': False, 'rounding': None}, is_weight=True),
    Component('Wqer', {'aqer': False}, is_weight=True),
    Component('ERQ', {}, is_weight=True),
)


def error_reductions(reports: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return component -> layer -> 1 - error after / error before, as a fraction; negative where it hurts.

    Args:
        reports: component name -> quantization report of the run with only that component (`ERQ`: with all).
        base: report of the run with none of them: RepQ-ViT's quantizers and plain rounding, with statistics.

    Aqer is judged with float weights, before and after it in the same run. The others are judged with quantized
    weights and inputs, against plain rounding. Layers without calibration rows or without error are left out.
    """
    reductions = {}
    for component in COMPONENTS:
        if component.name not in reports:
            continue
        after = layer_errors(reports[component.name]['layers'], QUANTIZED if component.is_weight else ('aqer',))
        before = layer_errors(
            base['layers'] if component.is_weight else reports[component.name]['layers'],
            QUANTIZED if component.is_weight else ('activation',),
        )
        reductions[component.name] = {
            name: 1 - error / before[name] for name, error in after.items() if before.get(name, 0) > 0
        }
    return reductions


def layer_errors(layers: Sequence[Mapping[str, Any]], steps: Sequence[str]) -> dict[str, float]:
    """Return layer -> output mean squared error after the first of `steps` that the layer's report has."""
    errors = {}
    for layer in layers:
        found = [layer['output_mse'][step] for step in steps if step in layer['output_mse']]
        if found:
            errors[layer['name']] = found[0]
    return errors
