"""Two kinds of model, as small as they can be with everything in them."""

import torch
from torch import Tensor, nn


class SwinClassifier(nn.Module):
    """Images (n, 3, H, W) -> logits (n, 5): an unshifted and a shifted block, and a patch merging."""

    def __init__(self) -> None:
        from mmdet.models.backbones.swin import SwinTransformer

        super().__init__()
        self.backbone = SwinTransformer(
            embed_dims=16, depths=(2, 0), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), drop_path_rate=0.1
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def make_swin() -> tuple[nn.Module, torch.Size]:
    """Return the model, in eval mode, and the shape of its inputs; windows reach beyond the feature maps."""
    model = SwinClassifier()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.train(False)
    return model, torch.Size((1, 3, 40, 30))


def make_plain() -> tuple[nn.Module, torch.Size]:
    """Return a bare sequence of layers, in eval mode, and the shape of its inputs."""
    layers = [
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, bias=False), nn.Flatten(),
        nn.LayerNorm(144), nn.Linear(144, 16), nn.GELU(), nn.Linear(16, 5),
    ]  # fmt: skip
    return nn.Sequential(*layers).eval(), torch.Size((4, 3, 15, 15))
