"""Every recipe on a small ViT and a small Swin of timm: all is quantized, the function kept, 8 bits close to float."""

import copy
import itertools

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.core.quantizers import Quantizer

from ..nn.timm_models import make_swin, make_vit
from .small_recipes import SMALL_RECIPES

MODELS = {'ViT': make_vit, 'Swin': lambda: make_swin(img_size=(36, 44), window_size=4)}
EVERY_DAY = ('rtn', 'repq', 'erq')
CASES = [
    case if case[0] in EVERY_DAY else pytest.param(*case, marks=pytest.mark.slow)
    for case in itertools.product(SMALL_RECIPES, MODELS)
]


def relative_error(model: nn.Module, reference: nn.Module, batches: list[torch.Tensor]) -> float:
    with torch.no_grad():
        found, wanted = (torch.cat([m(x) for x in batches]) for m in (model, reference))
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(('recipe', 'kind'), CASES)
def test_all_is_quantized_and_close_to_float(recipe: str, kind: str) -> None:
    model = MODELS[kind]()
    batches = [torch.randn(2, 3, *model.patch_embed.img_size) for _ in range(2)]
    reference = copy.deepcopy(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    report = erq_mm.quantize_(model, erq_mm.ClassifierTask(batches), SMALL_RECIPES[recipe], 8, 8)
    assert [layer.name for layer in report.layers if layer.kind != 'matmul'] == layers
    assert all(model.get_submodule(name).has_quantized_weight for name in layers)
    attentions = sum(name.endswith('.qkv') for name in layers)
    assert sum(layer.kind == 'matmul' for layer in report.layers) == 2 * attentions
    assert all(m.is_active for m in model.modules() if isinstance(m, Quantizer))
    assert all('looked up or added' in layer['reason'] for layer in report.float_layers)
    assert 'swap of the layers' in report.checks['same_function']
    assert relative_error(model, reference, batches) < 0.02
