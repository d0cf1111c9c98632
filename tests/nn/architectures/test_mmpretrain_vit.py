"""mmpretrain's ViT and DeiT: the same function, and everything quantized."""

import copy

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.nn.structure import find_sites

from ..test_attention import reparameterization_error, swapped
from ..timm_models import unsettled
from .test_coverage import check_all_is_quantized, plan_of

pytest.importorskip('mmpretrain', reason='mmpretrain is an optional dependency')
from mmpretrain.models.backbones import DistilledVisionTransformer, VisionTransformer  # noqa: E402
from mmpretrain.models.utils import MultiheadAttention  # noqa: E402

SMALL = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
OPTIONS = {
    'ViT': {},
    'LayerScale, all tokens': dict(layer_scale_init_value=0.3, out_type='avg_featmap', drop_path_rate=0.2),
    'norm before the blocks': dict(pre_norm=True, with_cls_token=False, out_type='featmap', qkv_bias=False),
}


class Classifier(nn.Module):
    def __init__(self, kind: type = VisionTransformer, **options: object) -> None:
        super().__init__()
        self.backbone = kind(**dict(arch=SMALL, img_size=32, patch_size=8) | options)

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)[-1]
        return torch.cat(features, -1) if isinstance(features, tuple) else features


MODELS = {name: lambda options=options: Classifier(**options) for name, options in OPTIONS.items()}
MODELS['distilled'] = lambda: Classifier(DistilledVisionTransformer)


@pytest.mark.parametrize('make', MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_swapped_and_reparameterized_it_is_the_float_model(make) -> None:
    model, x = unsettled(make()), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(swapped(model, [])[0](x), model(x), rtol=1e-5, atol=1e-5)
    assert reparameterization_error(model, [x]) <= 1e-5


def test_roles() -> None:
    roles = {site.name: site for site in find_sites(Classifier(), 'linears')[0]}
    layer = 'backbone.layers.1'
    assert (roles[f'{layer}.attn.qkv'].norm, roles[f'{layer}.attn.qkv'].is_qkv) == (f'{layer}.ln1', True)
    assert roles[f'{layer}.ffn.layers.0.0'].norm == f'{layer}.ln2'
    assert roles[f'{layer}.ffn.layers.1'].roles == ('post_gelu',)
    assert roles['backbone.patch_embed.projection'].roles == ('image',)


def test_every_layer_and_product_of_deit_small() -> None:
    with torch.device('meta'):
        model = Classifier(arch='deit-small', img_size=224, patch_size=16)
        plan, usage = plan_of(model, torch.randn(1, 3, 224, 224))
    check_all_is_quantized(model, plan, usage, blocks=12)
    assert sum(site.norm is not None for site in plan.sites) == 24


@pytest.mark.parametrize('recipe', ['repq', 'erq'])
def test_recipes(recipe: str) -> None:
    model, x = unsettled(Classifier()), torch.randn(4, 3, 32, 32)
    reference = copy.deepcopy(model)
    erq_mm.quantize_(model, lambda m: m(x), recipe, 8, 8)
    with torch.no_grad():
        assert (model(x) - reference(x)).norm() < 0.1 * reference(x).norm()


def test_values_that_go_past_the_attention_keep_float_products() -> None:
    model = nn.Sequential(MultiheadAttention(16, 1, input_dims=24, v_shortcut=True))
    x = torch.randn(2, 5, 24)
    report = erq_mm.quantize_(model, lambda m: m(x), 'rtn', 8, 8)
    assert [layer.name for layer in report.layers] == ['0.qkv', '0.proj']
    assert 'v_shortcut' in report.float_layers[0]['reason']
