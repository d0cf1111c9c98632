"""Multiply-accumulates and bit operations, worked by hand."""

import torch
from torch import nn

from erq_mm.analysis.operations import bit_operations, count_macs, product_bits

from ..nn.swin import make_swin


def test_linear_and_convolutions_by_hand() -> None:
    """Linear: rows x outputs x inputs. Conv: outputs x (channels x 3 x 3). Transposed: inputs x channels x 2 x 2."""
    model = nn.ModuleDict(
        {
            'linear': nn.Linear(3, 5),
            'conv': nn.Conv2d(2, 4, 3),
            'grouped': nn.Conv2d(4, 4, 3, padding=1, groups=2),
            'up': nn.ConvTranspose2d(2, 5, 2, stride=2),
            'unused': nn.Linear(2, 2),
        }
    )

    def run(m: nn.ModuleDict) -> None:
        m['linear'](torch.zeros(7, 3))
        m['grouped'](m['conv'](torch.zeros(1, 2, 8, 8)))
        m['up'](torch.zeros(1, 2, 4, 4))
        m['linear'](torch.zeros(2, 1, 3))  # a shared layer is called again: two more rows

    assert count_macs(model, run) == {
        'linear': 7 * 5 * 3 + 2 * 5 * 3,
        'conv': 36 * 4 * 18,
        'grouped': 36 * 4 * 2 * 9,
        'up': 16 * 2 * 5 * 4,
    }
    assert not any(m._forward_hooks for m in model.modules())


def test_attention_products_by_hand() -> None:
    """A 56 x 56 image gives 14 x 14 patches, 4 windows of 49 tokens with 32 channels, whatever the heads."""
    macs = count_macs(make_swin(32), lambda model: model(torch.zeros(1, 3, 56, 56)))
    attention = 'stages.0.blocks.0.attn.w_msa'
    assert macs[f'{attention}.query_key'] == macs[f'{attention}.probability_value'] == 4 * 49 * 49 * 32
    assert macs[f'{attention}.qkv'] == 4 * 49 * 32 * 96
    assert macs['patch_embed.projection'] == 14 * 14 * 32 * 3 * 16
    assert macs['stages.1.blocks.1.attn.w_msa.query_key'] == 1 * 49 * 49 * 64


def test_attention_of_all_tokens_by_hand() -> None:
    """A 32 x 32 image gives 4 x 4 patches and a class token."""
    from ..nn.timm_models import make_vit

    macs = count_macs(make_vit(), lambda model: model(torch.zeros(2, 3, 32, 32)))
    assert macs['blocks.1.attn.query_key'] == macs['blocks.1.attn.probability_value'] == 2 * 17 * 17 * 32
    assert macs['blocks.1.attn.qkv'] == 2 * 17 * 32 * 96


def test_bit_operations_by_hand() -> None:
    """100 x 4 x 8 + 10 x 4 x 4 (both sides activations) + 1 x 32 x 32 (left float) + 2 x 4 x 32 (input left float)."""
    layers = [
        {'name': 'linear', 'w_bits': 4, 'a_bits': 8},
        {'name': 'matmul', 'w_bits': None, 'a_bits': 4},
        {'name': 'no_rows', 'w_bits': 4, 'a_bits': None},
    ]
    macs = {'linear': 100, 'matmul': 10, 'conv': 1, 'no_rows': 2}
    assert bit_operations(macs, product_bits(layers)) == 3200 + 160 + 1024 + 256
    assert bit_operations(macs, {}) == 113 * 1024
