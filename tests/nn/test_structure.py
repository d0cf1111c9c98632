"""Roles by structure."""

import pytest
from torch import nn

from erq_mm.nn.structure import find_sites

from .swin import make_swin


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = make_swin(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 2))
        self.fc = nn.Linear(8, 4)


def test_roles_of_a_swin() -> None:
    sites, left_float = find_sites(Detector(), 'linears')
    roles = {site.name: site for site in sites}
    block = 'backbone.stages.0.blocks.0'
    assert roles['backbone.patch_embed.projection'].roles == ('image',)
    assert roles[f'{block}.attn.w_msa.qkv'].norm == f'{block}.norm1'
    assert roles[f'{block}.attn.w_msa.qkv'].windows == f'{block}.attn'
    assert roles[f'{block}.attn.w_msa.proj'].roles == ('linear_input',)
    assert roles[f'{block}.attn.w_msa.query_key'].roles == ('query', 'key')
    assert roles[f'{block}.attn.w_msa.probability_value'].roles == ('post_softmax', 'value')
    assert (roles[f'{block}.ffn.layers.0.0'].roles, roles[f'{block}.ffn.layers.0.0'].windows) == (('post_norm',), None)
    assert roles[f'{block}.ffn.layers.1'].roles == ('post_gelu',)
    assert roles['backbone.stages.0.downsample.reduction'].norm == 'backbone.stages.0.downsample.norm'
    assert roles['fc'].roles == ('linear_input',)
    assert [name for name, _ in left_float] == ['head.0', 'head.1']


def test_all_takes_convolutions_and_leaves_the_transposed_one() -> None:
    sites, left_float = find_sites(Detector(), 'all')
    assert [site.name for site in sites if site.roles == ('conv_input',)] == ['head.0']
    assert [name for name, _ in left_float] == ['head.1']
    assert 'transposed' in left_float[0][1]


def test_roles_of_a_bare_sequential() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 2))
    assert [site.roles for site in find_sites(model, 'linears')[0]] == [
        ('post_norm',), ('post_gelu',), ('linear_input',),
    ]  # fmt: skip


def test_unknown_scope() -> None:
    with pytest.raises(ValueError, match="scope must be one of .* got 'backbone'"):
        find_sites(Detector(), 'backbone')
