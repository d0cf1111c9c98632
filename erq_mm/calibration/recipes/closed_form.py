"""Round to nearest, RepQ-ViT, GPTQ and ERQ: what needs forward passes and linear algebra only."""

from dataclasses import replace
from typing import Any

from ...core.spec import ACTIVATION_PERCENTILES, MIN_MAX
from ...nn.structure import ROLES
from .base import Recipe

PUBLISHED_ACTIVATIONS = {'post_norm': {'granularity': 'channel'}, 'post_softmax': {'grid': 'log_sqrt2'}}
# single values behind a GELU make the huge tokens of pretrained ViTs: percentiles may not always cut them off
REPQ_ACTIVATIONS = PUBLISHED_ACTIVATIONS | {'post_gelu': {'percentiles': (*ACTIVATION_PERCENTILES, 1.0)}}
# half an octave leaves errors of up to 19 % per value at any bit-width; 8 bits have the codes for a finer base
REPQ_AT_8_BITS = {'post_softmax': {'grid': 'adaptive_log'}}


def rtn() -> Recipe:
    """Round to nearest on minimum-maximum ranges: the floor that every method has to beat."""
    plain = {'percentiles': MIN_MAX}
    return Recipe(
        'rtn',
        steps=({'type': 'fit_activations'}, {'type': 'fit_weights'}),
        activations={role: plain for role in ROLES},
        weight=plain,
    )


def repq(
    exact_pad: bool = True,
    integer_zero_point: bool = True,
    published_percentiles: bool = False,
    published_attention: bool = False,
) -> Recipe:
    """RepQ-ViT (ICCV 2023): scale reparameterization, log-sqrt2 softmax, percentile and MSE ranges.

    Args:
        exact_pad: pad windows with the value that stands for zero; False is the published code.
        integer_zero_point: round the mean zero point; False is the published code.
        published_percentiles: clip the inputs of `fc2` at 99.999 % at most, as the published code does; else their full
            range is a candidate, too, and the squared error decides.
        published_attention: base sqrt2 for attention of 8 bits, too; else the base of least squared error. Fewer bits
            have sqrt2 always.
    """
    reparameterize = {'type': 'reparameterize', 'exact_pad': exact_pad, 'integer_zero_point': integer_zero_point}
    return Recipe(
        'repq',
        steps=({'type': 'fit_activations'}, reparameterize, {'type': 'fit_weights'}),
        activations=PUBLISHED_ACTIVATIONS if published_percentiles else REPQ_ACTIVATIONS,
        at_8_bits={} if published_attention else REPQ_AT_8_BITS,
    )


def gptq(act_order: bool = False, damping: float = 0.01, inputs: str = 'float') -> Recipe:
    """GPTQ (ICLR 2023) behind RepQ-ViT's activation quantizers, the baseline of the ERQ paper's tables.

    Args:
        act_order: quantize the columns of largest energy first.
        damping: share of the Gram matrix's mean diagonal.
        inputs: `quantized` takes every layer's statistics from the model quantized so far, as the paper does; `float`
            those of all layers from the float model, as the tables that compare it with ERQ.
    """
    corrections = ({'type': 'fit_weights'}, {'type': 'gptq', 'damping': damping, 'act_order': act_order})
    steps = (*repq().steps[:-1], {'type': 'collect_statistics', 'inputs': inputs}, *corrections)
    return replace(repq(), name='gptq', steps=steps)


def erq(
    aqer: bool = True,
    ridge: bool = True,
    rounding: str | None = 'greedy',
    k: int = 1,
    iterations: int = 100,
    proxy: str = 'compensated',
    lam_mode: str = 'relative',
    lam: float = 0.1,
    exact_pad: bool = True,
    integer_zero_point: bool = True,
    published_percentiles: bool = False,
    published_attention: bool = False,
    inputs: str = 'float',
) -> Recipe:
    """ERQ (ICML 2024): RepQ's quantizers, Aqer, then Wqer.

    Every component can be switched off (the paper's Table 4): `aqer`, `ridge`, and `rounding=None`.

    Args:
        rounding, k, iterations: rule (`paper`, `released`, `greedy`), flips per iteration, and T.
        proxy: objective of the rounding, `paper` (Eq. 12) or `compensated` (exact after the ridge step).
        lam_mode, lam: damping of both ridge steps; 10 % of the mean diagonal was best on both demo detectors
            (docs/results/figure4.md). The released code is `sum` with 1e3 (0.1 * coe, coe 1e4); the paper gives 1e5 for
            detection.
        exact_pad, integer_zero_point, published_percentiles, published_attention: as of `repq`.
        inputs: `float`, as published: a layer is corrected for the error of its own quantizer. `quantized`: also for
            what the layers before it do to its input, which is the idea of `serq`, on ERQ's grids and by ERQ's steps.
    """
    ridge_options = {'lam_mode': lam_mode, 'lam': lam}
    wqer = {'ridge': ridge, 'rounding': rounding, 'k': k, 'iterations': iterations, 'proxy': proxy, **ridge_options}
    base = repq(exact_pad, integer_zero_point, published_percentiles, published_attention)
    corrections = [{'type': 'aqer', **ridge_options}] if aqer else []
    corrections.append({'type': 'fit_weights'})
    corrections += [{'type': 'wqer', **wqer}] if ridge or rounding else []
    return replace(
        base, name='erq', steps=(*base.steps[:-1], {'type': 'collect_statistics', 'inputs': inputs}, *corrections)
    )


def erq_tpami(outlier_share: float | None = None, **options: Any) -> Recipe:
    """ERQ as extended (TPAMI 2025): the dual uniform quantizer for the weights of qkv and fc1.

    Columns that reparameterization and Aqer made wide get scales of their own; they are chosen on the corrected weight.

    Args:
        outlier_share: share of the columns in the outlier group; None is the released rule, out_features // 20 columns.
        options: of `erq`.
    """
    dual = {'post_norm': {'grid': 'dual_uniform', 'outlier_share': outlier_share}}
    return replace(erq(**options), name='erq_tpami', weights=dual)
