"""A saved model of timm gives the bits that were saved, also where windows are padded."""

from pathlib import Path

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.export.checkpoint import load_into_

from ..nn.timm_models import make_swin, make_vit

MODELS = {
    'ViT': lambda: make_vit('deit_tiny_distilled_patch16_224', qk_norm=True, init_values=0.5),
    'Swin': lambda: make_swin(img_size=(36, 44), window_size=4),
}


@pytest.mark.parametrize('make', MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_reloaded_it_is_equal_to_the_bit(make, tmp_path: Path) -> None:
    model = make()
    x, file = torch.randn(2, 3, *model.patch_embed.img_size), tmp_path / 'model.safetensors'
    report = erq_mm.quantize_(model, lambda m: m(x), 'repq', 4, 4)
    erq_mm.save_quantized(model, file, report)
    again: nn.Module = make()
    load_into_(again, file)
    assert torch.equal(again(x), model(x))
