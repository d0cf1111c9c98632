"""AdaRound, BRECQ, QDrop, PD-Quant, MGRQ and APHQ-ViT: one reconstruction with different options.

All stand behind RepQ-ViT's activation quantizers. `preset='published'` has the published iterations and learning rates
(hours on a CPU); `fast` finishes on the demo detectors within three minutes on two cores. Every option of
`ReconstructionOptions` can be given and wins over the preset. Papers differ in the number of images: 32 or 1 in the
tables of ERQ, 1024 (classification) and 256 (detection) in those of the methods themselves; `published` takes 256.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..reconstruction.options import ReconstructionOptions
from .base import Recipe
from .closed_form import repq

PRESETS = ('published', 'fast')
PUBLISHED = {'iterations': 20000, 'images': 256, 'rounding_lr': 1e-3}
FAST = {
    'iterations': 50,
    'layer_iterations': 200,
    'images': 8,
    'rounding_lr': 3e-2,
    'relative_terms': True,
    'regularization': 2e-3,
    'rows': 4096,
    'batch_rows': 512,
}
MGRQ_NOTE = 'MGRQ: reconstruction: the published losses were not available in full; terms and weights are our reading'
FAST_SCALE_LR = 1e-3
FAST_WEIGHTS = {'rounding_lr': 5e-5, 'images': 16}  # weights that are trained themselves overfit sooner


def reconstruction_step(preset: str, method: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the step `reconstruct` of a method: published values, then those of the preset, then the caller's.

    Raises:
        ValueError: an unknown preset or option, or values that contradict each other.
    """
    if preset not in PRESETS:
        raise ValueError(f'preset must be one of {PRESETS}, got {preset!r}')
    known = {field.name for field in fields(ReconstructionOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f'reconstruction has no option {unknown}; it has {sorted(known)}')
    values = PUBLISHED | dict(method)
    if preset == 'fast':
        values |= FAST | ({'scale_lr': FAST_SCALE_LR} if values.get('scale_lr') else {})
        if values.get('rounding') == 'straight_through':
            values |= FAST_WEIGHTS
    values |= dict(options)
    ReconstructionOptions(**values)
    return {'type': 'reconstruct', **values}


def _recipe(name: str, preset: str, method: Mapping[str, Any], options: Mapping[str, Any], note: str = '') -> Recipe:
    step = reconstruction_step(preset, method, options)
    base = repq()
    return replace(base, name=name, steps=(*base.steps[:-1], step), images=step['images'] or 1, note=note)


def adaround(preset: str = 'published', **options: Any) -> Recipe:
    """AdaRound (ICML 2020): learned rounding layer by layer, on inputs of the model quantized so far."""
    return _recipe('adaround', preset, {'unit': 'layer'}, options)


def brecq(preset: str = 'published', **options: Any) -> Recipe:
    """BRECQ (ICLR 2021): learned rounding block by block, errors weighted by the squared gradient of the loss.

    Activation scales are trained together with the roundings (published: afterwards, in 5,000 iterations).
    """
    return _recipe('brecq', preset, {'metric': 'fisher', 'scale_lr': 4e-4}, options)


def qdrop(preset: str = 'published', **options: Any) -> Recipe:
    """QDrop (ICLR 2022): learned rounding and scales block by block, half of the activations left float at random."""
    return _recipe('qdrop', preset, {'drop': 0.5, 'scale_lr': 4e-5}, options)


def pd_quant(preset: str = 'published', **options: Any) -> Recipe:
    """PD-Quant (CVPR 2023): QDrop with the difference of the model's predictions in the objective, weight 0.1.

    For detectors the predictions are the region proposal network's, compared as in APHQ-ViT's detection code. The
    distribution correction of the paper works on BatchNorm statistics, which these models do not have.
    """
    method = {'drop': 0.5, 'scale_lr': 4e-5, 'rounding_lr': 3e-3, 'global_weight': 0.1}
    return _recipe('pd_quant', preset, method | _sparse(preset), options)


def mgrq(preset: str = 'published', **options: Any) -> Recipe:
    """MGRQ (ICIP 2024), reconstruction: the published losses were not available in full.

    Block reconstruction, plus the divergence of the model's predictions behind the block (Extra-Block Global
    Supervision) and that of the softmax of every layer's output inside it (Intra-Block Local Supervision). Every term
    is divided by its first value, and the weights (`global_weight`, `local_weight`) are 1: both are our choice.
    """
    method = {'scale_lr': 4e-5, 'global_weight': 1.0, 'local_weight': 1.0, 'relative_terms': True}
    return _recipe('mgrq', preset, method | _sparse(preset), options, MGRQ_NOTE)


def aphq(preset: str = 'published', **options: Any) -> Recipe:
    """APHQ-ViT (CVPR 2025): QDrop whose squared errors are weighted by the average perturbation Hessian.

    As published for detection, layers outside backbone and neck are only calibrated.
    """
    method = {'metric': 'perturbation', 'drop': 0.5, 'scale_lr': 4e-5, 'outside': 'neck'}
    return _recipe('aphq', preset, method, options)


def _sparse(preset: str) -> dict[str, Any]:
    """The fast preset evaluates the predictions, a whole forward of the model, at every eighth iteration."""
    return {'global_every': 8} if preset == 'fast' else {}
