"""A small quantized layer, as explicit rows: the independent reference of the tests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from erq_mm.core.spec import QuantSpec
from erq_mm.core.statistics import GramStats, RowStats
from erq_mm.core.weight_grid import WeightGrid, fit_weight_grid


@dataclass
class LayerProblem:
    """y = W x + b with quantized inputs x_q; float64 throughout."""

    x: Tensor
    x_q: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def augmented(self) -> Tensor:
        """[x_q, 1]."""
        return torch.cat([self.x_q, torch.ones(len(self.x_q), 1, dtype=self.x.dtype)], dim=1)

    def stats(self, kind: type = GramStats, **options: int) -> GramStats | RowStats:
        stats = kind(self.weight, **options)
        half = len(self.x) // 2
        stats.add(self.x[:half], self.x_q[:half])
        stats.add(self.x[half:], self.x_q[half:])
        return stats

    def output_error(self, change: Tensor) -> Tensor:
        """Mean squared error of the layer whose weight and bias are changed."""
        ideal = self.x @ self.weight.T
        actual = self.augmented @ (torch.cat([self.weight, torch.zeros(len(self.weight), 1).double()], 1) + change).T
        return (ideal - actual).square().mean()


def make_problem(rows: int = 60, inputs: int = 10, outputs: int = 4, step: float = 0.4) -> LayerProblem:
    mixing = torch.randn(inputs, inputs).double()
    x = torch.randn(rows, inputs).double() @ mixing + torch.randn(inputs).double()
    x_q = torch.round(x / step).clamp(-4, 5) * step
    return LayerProblem(x, x_q, torch.randn(outputs, inputs).double(), torch.randn(outputs).double())


def double_grid(weight: Tensor, spec: QuantSpec) -> WeightGrid:
    """The grid of a float64 weight; the search itself runs in float32."""
    return fit_weight_grid(weight.float(), spec).to(torch.float64)
