"""A product of two activations, both quantized."""

import torch
from torch import Tensor, nn

from ..core.quantizers import Quantizer, build_quantizer
from ..core.spec import QuantSpec


class QuantMatMul(nn.Module):
    """a_q @ b_q, each operand with its own quantizer.

    Args:
        left_spec, right_spec: of the two quantizers.
        device: of the operands; None is the CPU. The module that owns the product moves it to where its weights are.
    """

    def __init__(self, left_spec: QuantSpec, right_spec: QuantSpec, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.left_quantizer: Quantizer = build_quantizer(left_spec, device=device)
        self.right_quantizer: Quantizer = build_quantizer(right_spec, device=device)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left_quantizer(left) @ self.right_quantizer(right)
