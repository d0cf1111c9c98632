"""The option `deploy=True` of every recipe: only grids that integer kernels have, so that all layers run as integers.

Kernels multiply uint8 inputs, of one scale and an integer zero point, by int8 weights, of one scale per row and no zero
point. A scale per channel of an input is in the weight's columns, and it is divided by that as it is encoded; a table
of levels is looked up behind that. Codes of up to 6 bits are that as they are (`code - zero_point` is exact in int8).
Wider weights get symmetric rows: of 8 bits because the differences reach beyond int8; of 7 because CPUs without VNNI
instructions add two products in 16 bits, and 2 * 255 * 64 fits while 2 * 255 * 127 does not. Products of attention stay
float: on CPUs their integer kernels gain nothing, and they are what needs logarithmic grids. The image has one fitted
scale for all channels: exact pixels would need one per channel.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...core.spec import KERNEL_GRIDS, QuantSpec
from ...nn.structure import Site

PRODUCT_ROLES = ('query', 'key', 'value', 'post_softmax')
ASYMMETRIC_BITS = 6
DEPLOY_NOTE = (
    'deploy=True: grids of integer kernels (symmetric rows from 7 bits on, products of attention float, one range for '
    'the image)'
)
WAY_OUT = 'Leave deploy out, or take a recipe of uniform grids, such as erq, repq or rtn'


def check_deployable(
    name: str,
    steps: Iterable[Mapping[str, Any]],
    activations: Mapping[str, Mapping[str, Any]],
    weights: Iterable[Mapping[str, Any]],
) -> None:
    """Raise ValueError, naming the grid, if a method is one of grids that kernels do not have.

    Args:
        name, steps, activations: of the recipe.
        weights: fields of its weights' specs.
    """
    for role, spec in activations.items():
        grid = spec.get('grid', 'uniform')
        if role not in PRODUCT_ROLES and grid not in KERNEL_GRIDS:
            raise ValueError(
                f'recipe {name!r} cannot be deployed: its inputs of role {role!r} have the grid {grid!r}, integer '
                f'kernels have {KERNEL_GRIDS}. {WAY_OUT}'
            )
    if any(spec.get('grid') == 'dual_uniform' for spec in weights):
        raise ValueError(
            f"recipe {name!r} cannot be deployed: its weights have two scales per row (grid 'dual_uniform'), those of "
            f'integer kernels one. {WAY_OUT}'
        )
    if any(step.get('integer_zero_point') is False for step in steps):
        raise ValueError(
            f'recipe {name!r} cannot be deployed with integer_zero_point=False: zero points of kernels are integers'
        )


def with_kernel_grid(spec: QuantSpec) -> QuantSpec:
    """Return the spec of a weight with a grid that is exact in the kernels of every CPU."""
    if spec.bits <= ASYMMETRIC_BITS or spec.grid == 'symmetric':
        return spec
    return replace(spec, grid='symmetric')


def why_float_in_deployment(site: Site) -> str | None:
    """Return why a site stays float under `deploy=True`, or None."""
    return 'product of attention: float under deploy=True' if site.kind == 'matmul' else None
