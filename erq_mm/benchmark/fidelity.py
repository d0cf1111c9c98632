"""What cells say about fidelity: the fraction of the float model's outputs that is left unexplained, by part."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEAN = 'mean'
PARTS = {
    'fpn': 'FPN',
    'rpn_cls': 'RPN class',
    'rpn_reg': 'RPN box',
    'box_cls': 'head class',
    'box_reg': 'head box',
    'mask': 'mask logits',
    'logits': 'logits',
}  # what tables call the parts of `engine.fidelity`


def fidelity_of(results: Sequence[Mapping[str, Any]], part: str = MEAN) -> float | None:
    """Return the unexplained variance, the mean over seeds: 0 for a float model, None if a result has not this part.

    Args:
        results: of the seeds of a row; those of before fidelity was measured have none.
        part: a key of `PARTS`, or the mean over them.
    """
    if all(result['report'] is None for result in results):
        return 0.0
    values = [_fraction(result['report'].get('fidelity') or {}, part) for result in results]
    return None if None in values else float(np.mean(values))


def _fraction(fidelity: Mapping[str, Any], part: str) -> float | None:
    return fidelity.get(MEAN) if part == MEAN else fidelity.get('parts', {}).get(part)
