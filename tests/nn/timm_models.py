"""Small models of timm whose LayerNorms and weights are far from their initial values."""

import pytest
import torch
from torch import nn

timm = pytest.importorskip('timm', reason='timm is an optional dependency')


@torch.no_grad()
def unsettled(model: nn.Module) -> nn.Module:
    """Return the model in eval mode, with parameters as large and uneven as after training."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter += 0.3 * torch.randn_like(parameter)
        else:
            parameter *= 2
    return model.eval()


def make_vit(name: str = 'deit_tiny_patch16_224', **options: object) -> nn.Module:
    """Return a ViT of two blocks for images of 32 x 32."""
    small = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=7)
    return unsettled(timm.create_model(name, **small | options))


def make_swin(name: str = 'swin_tiny_patch4_window7_224', **options: object) -> nn.Module:
    """Return a Swin of two stages with three blocks, for images of 64 x 64 or, by default, of any size."""
    small = dict(img_size=64, embed_dim=16, depths=(2, 1), num_heads=(2, 4), num_classes=7, strict_img_size=False)
    return unsettled(timm.create_model(name, **small | options))
