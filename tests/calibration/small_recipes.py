"""Every recipe, small enough for a test: reconstructions with a few iterations on one batch."""

import erq_mm

RECONSTRUCTIONS = ('adaround', 'brecq', 'qdrop', 'pd_quant', 'mgrq', 'aphq', 'dopq')


def small(name: str, **options: object) -> dict[str, object]:
    """Return the recipe of a name with short training."""
    if name == 'serq_tuned':
        return {'type': name, 'tuning': 3, **options}
    if name not in RECONSTRUCTIONS:
        return {'type': name, **options}
    return {'type': name, 'preset': 'fast', 'iterations': 5, 'layer_iterations': 5, 'images': 1, **options}


SMALL_RECIPES = {name: small(name) for name in sorted(erq_mm.RECIPES)}
