"""Small quantized models, and the float ones of the same architecture."""

import torch
from torch import nn

import erq_mm


def make_bare() -> nn.Module:
    """A convolution, LayerNorm, Linear with and without bias; odd sizes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.LayerNorm(6)
            self.fc1 = nn.Linear(6, 13)
            self.fc2 = nn.Linear(13, 5, bias=False)
            self.twice = nn.ModuleDict({'first': self.fc2})
            self.table = nn.Parameter(torch.randn(2, 5))

        def forward(self, x):
            x = self.norm(self.conv(x).flatten(2).transpose(1, 2))
            return self.twice['first'](nn.functional.gelu(self.fc1(x))) + self.table[0]

    return Net().eval()


def quantized(make, recipe='erq', w_bits=4, a_bits=4, scope='all', seed=0):
    """Return a quantized model and its report."""
    torch.manual_seed(seed)
    model = make()
    images = torch.randn(2, 3, 24, 20)
    report = erq_mm.quantize_(model, lambda m: m(images), recipe, w_bits, a_bits, scope)
    return model, report


def fresh(make, seed=99):
    """Return a float model with other weights."""
    torch.manual_seed(seed)
    return make()
