"""The family that was added to show how: DINOv2 of `transformers`."""

import copy

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.nn.architectures import why_unknown
from erq_mm.nn.structure import find_sites

from ...calibration.small_recipes import SMALL_RECIPES
from ..test_attention import reparameterization_error, swapped
from ..timm_models import unsettled
from .test_coverage import check_all_is_quantized, plan_of

transformers = pytest.importorskip('transformers', reason='transformers is an optional dependency', minversion='5.0')

OPTIONS = {
    'sdpa': dict(attn_implementation='sdpa'),
    'eager': dict(attn_implementation='eager'),
    'gated': dict(use_swiglu_ffn=True),
    'no biases': dict(qkv_bias=False),
}


class Classifier(nn.Module):
    """Images -> logits, as all tasks for classifiers expect."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        small = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        config = transformers.Dinov2Config(**small | options, num_labels=7)
        self.model = transformers.Dinov2ForImageClassification(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_swapped_and_reparameterized_it_is_the_float_model(options: dict) -> None:
    model, x = unsettled(Classifier(**options)), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(swapped(model, [])[0](x), model(x), rtol=1e-5, atol=1e-5)
    assert reparameterization_error(model, [x]) <= 1e-5


@pytest.mark.parametrize('implementation', ['sdpa', 'eager'])
@torch.no_grad()
def test_masks_and_probabilities(implementation: str) -> None:
    model, x = unsettled(Classifier(attn_implementation=implementation)), torch.randn(2, 3, 32, 32)
    mask = torch.arange(17)[None] < torch.tensor([[17], [9]])
    changed, _ = swapped(model, [])
    wanted, found = (m.model.dinov2(x, attention_mask=mask) for m in (model, changed))
    torch.testing.assert_close(found.last_hidden_state, wanted.last_hidden_state, rtol=1e-5, atol=1e-5)
    attention, tokens = (m.model.dinov2.encoder.layer[0].attention for m in (model, changed)), torch.randn(1, 5, 32)
    wanted, found = (module(tokens)[1] for module in attention)
    assert (found is None) == (wanted is None) == (implementation == 'sdpa')
    if wanted is not None:
        torch.testing.assert_close(found, wanted)


def test_roles() -> None:
    roles = {site.name: site for site in find_sites(Classifier(), 'linears')[0]}
    layer = 'model.dinov2.encoder.layer.1'
    assert {roles[f'{layer}.attention.{name}'].norm for name in ('q_proj', 'k_proj', 'v_proj')} == {f'{layer}.norm1'}
    assert roles[f'{layer}.attention.o_proj'].roles == ('linear_input',)
    assert roles[f'{layer}.mlp.fc1'].norm == f'{layer}.norm2'
    assert roles[f'{layer}.mlp.fc2'].roles == ('post_gelu',)
    assert roles['model.dinov2.embeddings.patch_embeddings.projection'].roles == ('image',)
    gated = {site.name: site.norm for site in find_sites(Classifier(use_swiglu_ffn=True), 'linears')[0]}
    assert gated[f'{layer}.mlp.gate_proj'] == gated[f'{layer}.mlp.up_proj'] == f'{layer}.norm2'
    assert gated[f'{layer}.mlp.down_proj'] is None


def test_every_layer_and_product_of_the_small_one() -> None:
    with torch.device('meta'):
        model = transformers.Dinov2ForImageClassification(
            transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)
        )
        plan, usage = plan_of(model, torch.randn(1, 3, 224, 224))
    check_all_is_quantized(model, plan, usage, blocks=12)
    assert sum(site.norm is not None for site in plan.sites) == 12 * 4


@pytest.mark.parametrize(
    'recipe',
    [name if name in ('repq', 'erq') else pytest.param(name, marks=pytest.mark.slow) for name in SMALL_RECIPES],
)
def test_recipes(recipe: str) -> None:
    model, batches = unsettled(Classifier()), [torch.randn(2, 3, 32, 32) for _ in range(2)]
    reference = copy.deepcopy(model)
    report = erq_mm.quantize_(model, erq_mm.ClassifierTask(batches), SMALL_RECIPES[recipe], 8, 8)
    assert len(report.layers) == 1 + 2 * (4 + 2 + 2) + 1
    with torch.no_grad():
        wanted, found = (torch.cat([m(x) for x in batches]) for m in (reference, model))
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_another_implementation_keeps_float_products_and_says_why() -> None:
    model = Classifier()
    attention = model.model.dinov2.encoder.layer[0].attention
    attention.config = copy.deepcopy(attention.config)
    attention.config._attn_implementation = 'flex_attention'
    names = {site.name for site in find_sites(model, 'linears')[0]}
    assert 'model.dinov2.encoder.layer.0.attention.query_key' not in names
    assert 'model.dinov2.encoder.layer.1.attention.query_key' in names
    assert why_unknown(attention) == "attn_implementation='flex_attention' has masks of its own"
