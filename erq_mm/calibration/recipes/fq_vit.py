"""FQ-ViT (IJCAI 2022): power-of-two factors for LayerNorm outputs, log2 attention, minimum-maximum ranges.

Powers of two are its grid for attention of 4 bits: its tables' 8-bit attention is uniform, as in the released code
(where switch `lis` of `config.py` sets both).
"""

from ...core.spec import MIN_MAX, check_bits
from ...nn.structure import ROLES
from .base import Recipe


def fq_vit(attention_bits: int | None = None) -> Recipe:
    """FQ-ViT: no reparameterization and no search; inputs of LayerNorm and softmax stay float, which it quantizes, too.

    Without a LayerNorm before it, an input that would have a factor per channel gets one uniform grid. Published for
    8 bits; at 4 bits it is the plain minimum and maximum that limits it.

    Args:
        attention_bits: of the attention probabilities; the paper's tables have 8 and 4 beside W8A8. None is as many as
            other activations have. They lie on a uniform grid if 8, on powers of two if fewer.
    """
    plain = {'percentiles': MIN_MAX}
    activations = {role: dict(plain) for role in ROLES}
    activations['post_norm'] |= {'granularity': 'channel', 'grid': 'power_of_two_factor'}
    activations['post_softmax'] |= {'grid': 'log2'}
    if attention_bits is not None:
        check_bits('attention_bits', attention_bits)
        activations['post_softmax']['bits'] = attention_bits
    return Recipe(
        'fq_vit',
        steps=({'type': 'fit_activations'}, {'type': 'fit_weights'}),
        activations=activations,
        at_8_bits={'post_softmax': {'grid': 'uniform'}},
        weight=plain,
    )
