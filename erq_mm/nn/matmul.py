"""A product of two activations, both quantized."""

from torch import Tensor, nn

from ..core.quantizers import Quantizer, build_quantizer
from ..core.spec import QuantSpec


class QuantMatMul(nn.Module):
    """a_q @ b_q, each operand with its own quantizer."""

    def __init__(self, left_spec: QuantSpec, right_spec: QuantSpec) -> None:
        super().__init__()
        self.left_quantizer: Quantizer = build_quantizer(left_spec)
        self.right_quantizer: Quantizer = build_quantizer(right_spec)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left_quantizer(left) @ self.right_quantizer(right)
