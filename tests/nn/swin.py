"""A small mmdet Swin whose LayerNorms and weights are far from their initial values."""

import torch
from torch import nn


def make_swin(embed_dims: int = 32) -> nn.Module:
    from mmdet.models.backbones.swin import SwinTransformer

    model = SwinTransformer(
        embed_dims=embed_dims, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1), drop_path_rate=0.1
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            else:
                parameter *= 2
    model.eval()  # returns None, hence on a line of its own
    return model
