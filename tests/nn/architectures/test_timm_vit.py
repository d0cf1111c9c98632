"""timm's ViT, DeiT and what they are built of: unfused, folded and quantized, and still the same function."""

import copy

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.core.spec import QuantSpec
from erq_mm.nn import QuantAttention, QuantMatMul
from erq_mm.nn.structure import find_sites

from ..test_attention import reparameterization_error, swapped
from ..timm_models import make_vit, timm

MODELS = {
    'deit': {},
    'distilled': dict(name='deit_tiny_distilled_patch16_224'),
    'LayerScale, drop path': dict(init_values=0.3, drop_path_rate=0.5),
    'norms of queries and keys': dict(qk_norm=True),
    'norms of what is mixed': dict(scale_attn_norm=True, scale_mlp_norm=True),
    'registers, fc_norm': dict(reg_tokens=3, fc_norm=True, global_pool='avg'),
    'average of all tokens': dict(class_token=False, global_pool='avg', final_norm=False),
    'norm before the blocks': dict(pre_norm=True, no_embed_class=True),
    'no biases': dict(qkv_bias=False, proj_bias=False),
    'DINOv2': dict(name='vit_small_patch14_dinov2', img_size=28, patch_size=14),
}


@pytest.mark.parametrize('options', MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_swapped_and_reparameterized_it_is_the_float_model(options: dict) -> None:
    model = make_vit(**options)
    x = torch.randn(2, 3, *model.patch_embed.img_size)
    torch.testing.assert_close(swapped(model, [])[0](x), model(x), rtol=1e-5, atol=1e-5)
    assert reparameterization_error(model, [x]) <= 1e-5


def test_roles() -> None:
    sites, left_float = find_sites(make_vit(), 'linears')
    roles = {site.name: site for site in sites}
    assert left_float == []
    assert roles['patch_embed.proj'].roles == ('image',) and roles['patch_embed.proj'].block == 'patch_embed'
    assert (roles['blocks.1.attn.qkv'].norm, roles['blocks.1.attn.qkv'].is_qkv) == ('blocks.1.norm1', True)
    assert roles['blocks.1.attn.query_key'].roles == ('query', 'key')
    assert roles['blocks.1.attn.probability_value'].roles == ('post_softmax', 'value')
    assert roles['blocks.1.attn.proj'].roles == ('linear_input',)
    assert roles['blocks.1.mlp.fc1'].norm == 'blocks.1.norm2'
    assert roles['blocks.1.mlp.fc2'].roles == ('post_gelu',)
    assert {site.block for site in sites} == {'patch_embed', 'blocks.0', 'blocks.1', None}
    assert roles['head'].roles == ('linear_input',)


def test_what_the_head_sees_is_not_folded() -> None:
    """The norms in front of heads are what callers get as features: they stay as they are."""
    model, x = make_vit(fc_norm=True, global_pool='avg', reg_tokens=1), torch.randn(2, 3, 32, 32)
    reference = copy.deepcopy(model)
    erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8)
    for name in ('norm', 'fc_norm'):
        wanted, found = reference.get_submodule(name).state_dict(), model.get_submodule(name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert not torch.equal(model.blocks[0].norm1.weight, reference.blocks[0].norm1.weight)


def unfused(attention: nn.Module) -> QuantAttention:
    specs = QuantSpec(8), QuantSpec(8)
    return QuantAttention(attention, QuantMatMul(*specs), QuantMatMul(*specs))


MASKS = {
    'none': {},
    'bool': {'attn_mask': torch.eye(9, dtype=torch.bool) | (torch.arange(9) % 2 == 0)},
    'float': {'attn_mask': torch.linspace(-1, 1, 81).view(9, 9)},
    'causal': {'is_causal': True},
}


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('options', [
    {}, dict(qk_norm=True, scale_norm=True, norm_layer=nn.LayerNorm), dict(gated=True),
    dict(attn_head_dim=5, dim_out=6),
], ids=str)  # fmt: skip
@torch.no_grad()
def test_attention_with_every_option(options: dict, mask: str) -> None:
    attention, x = timm.layers.Attention(24, 4, qkv_bias=True, **options), torch.randn(3, 9, 24)
    attention.eval()
    torch.testing.assert_close(unfused(attention)(x, **MASKS[mask]), attention(x, **MASKS[mask]))


@pytest.mark.parametrize(('options', 'takes'), [
    ({}, ('proj', 4)), (dict(qk_norm=True, norm_layer=nn.LayerNorm), (None, 0)),
    (dict(scale_norm=True, norm_layer=nn.LayerNorm), (None, 0)), (dict(gated=True), (None, 0)),
], ids=str)  # fmt: skip
def test_heads_change_coordinates_only_where_mixed_values_go_on_as_they_are(options: dict, takes: tuple) -> None:
    attention = timm.layers.Attention(24, 4, qkv_bias=True, **options)
    sites = {site.name: site for site in find_sites(attention, 'linears')[0]}
    assert (sites['qkv'].mixed_into, sites['qkv'].heads) == takes


def quantized(model: nn.Module) -> tuple[erq_mm.Report, dict[str, str], dict[str, str]]:
    """Quantize with 8 bits, check that the function is kept; return the report, roles and reasons by name."""
    x, reference = torch.randn(2, 3, 32, 32), copy.deepcopy(model)
    report = erq_mm.quantize_(model, lambda m: m(x), 'repq', 8, 8)
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.1 * reference(x).norm()
    reasons = {layer['name']: layer['reason'] for layer in report.float_layers}
    return report, {layer.name: layer.role for layer in report.layers}, reasons


def test_an_attention_with_hooks_keeps_float_products_and_says_why() -> None:
    model = make_vit()
    model.blocks[0].attn.register_forward_hook(lambda _module, _args, output: 2 * output)
    report, roles, reasons = quantized(model)
    assert 'blocks.0.attn.query_key' not in roles and 'blocks.1.attn.query_key' in roles
    assert roles['blocks.0.attn.qkv'] == 'linear_input' and roles['blocks.1.attn.qkv'] == 'post_norm'
    assert (
        'products of activations stay float: Attention is no plain Attention: it has hooks' in reasons['blocks.0.attn']
    )


class PostNormBlock(timm.models.vision_transformer.Block):
    def forward(self, x: Tensor, **_: object) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


@pytest.mark.parametrize('block', [PostNormBlock, timm.models.vision_transformer.ResPostBlock])
def test_blocks_of_another_order_are_not_folded(block: type) -> None:
    """Attention inside is known, so its products are quantized; what stands around it is not."""
    model = make_vit(block_fn=block)
    _, roles, _ = quantized(model)
    assert roles['blocks.0.attn.query_key'] == 'query,key'
    assert 'post_norm' not in roles.values()


def test_fused_projections_are_ordinary_layers() -> None:
    """`ParallelScalingBlock` has one layer for queries, keys, values and fc1, and its own products."""
    _, roles, reasons = quantized(make_vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock))
    assert 'blocks.0.attn_out_proj' in roles and 'query,key' not in roles.values()
    assert 'the structure of ParallelScalingBlock is not known' in reasons['blocks.0']


def test_other_norms_and_activations_are_not_taken_for_the_known_ones() -> None:
    model = make_vit(norm_layer='rmsnorm', act_layer='quick_gelu')
    report, roles, _ = quantized(model)
    assert roles['blocks.0.mlp.fc2'] == 'linear_input'
    assert all(site.norm is None for site in find_sites(make_vit(norm_layer='rmsnorm'), 'linears')[0])
