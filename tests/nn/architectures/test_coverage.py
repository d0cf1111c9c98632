"""Every layer and product of the papers' models, counted from the models themselves, on a device without memory."""

from collections import Counter

import pytest
import torch
from torch import nn

from erq_mm.calibration.planning import Plan, plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.nn.usage import Usage, observe_usage

from ..timm_models import timm

# name -> blocks
VITS = {
    'vit_small_patch16_224': 12, 'vit_base_patch16_224': 12, 'deit_tiny_patch16_224': 12,
    'deit_small_patch16_224': 12, 'deit_base_patch16_224': 12, 'deit_small_distilled_patch16_224': 12,
}  # fmt: skip
SWINS = {'swin_small_patch4_window7_224': 24, 'swin_base_patch4_window7_224': 24}
# the others differ from these in width alone
EVERY_DAY = ('vit_small_patch16_224', 'deit_small_distilled_patch16_224', 'swin_small_patch4_window7_224')
CASES = [
    pytest.param(*case, id=case[0], marks=() if case[0] in EVERY_DAY else pytest.mark.slow)
    for case in (VITS | SWINS).items()
]


@torch.no_grad()
def plan_of(model: nn.Module, *inputs: torch.Tensor) -> tuple[Plan, Usage]:
    """Return what would be quantized of a model, and what a forward of it uses; nothing is computed."""
    model.eval()
    with observe_usage(model) as usage:
        model(*inputs)
    return plan_quantization(model, resolve_recipe('erq'), 4, 4, 'linears', {}, usage), usage


def number_of_products(kernels: Counter[str]) -> int:
    """Fused attention is one kernel of two products."""
    return sum(count * (2 if 'attention' in kernel else 1) for kernel, count in kernels.items())


def check_all_is_quantized(model: nn.Module, plan: Plan, usage: Usage, blocks: int) -> None:
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert [site.name for site in plan.sites if site.kind != 'matmul'] == layers
    products = {name: number_of_products(kernels) for name, kernels in usage.products.items()}
    assert len(products) == blocks and set(products.values()) == {2}
    found = Counter(site.name.rpartition('.')[0] for site in plan.sites if site.kind == 'matmul')
    assert found == products
    assert all('looked up or added' in reason for _, reason in plan.float_layers)


@pytest.mark.parametrize(('name', 'blocks'), CASES)
def test_models_of_the_papers(name: str, blocks: int) -> None:
    with torch.device('meta'):
        model = timm.create_model(name)
        plan, usage = plan_of(model, torch.randn(1, 3, 224, 224))
    check_all_is_quantized(model, plan, usage, blocks)
    folded = sum(site.norm is not None for site in plan.sites)
    merging = sum(site.is_merging for site in plan.sites)
    assert (folded, merging) == (2 * blocks + merging, 3 if name in SWINS else 0)
    padded = [site for site in plan.sites if site.norm is not None and site.windows is not None]
    assert len(padded) == (blocks if name in SWINS else 0)
