"""log2 grid for post-softmax values (FQ-ViT, IJCAI 2022, log-int-softmax): q = round(-log2 x), x_q = 2**-q."""

from ..histogram import Histogram
from .log_sqrt2 import LogSqrt2Quantizer


class Log2Quantizer(LogSqrt2Quantizer):
    """Codes 0..2**b - 1 stand for 2**-q, smaller values become exactly zero.

    The scale is 1, as published, so that products with it are bit shifts: larger values become 1. The integer
    exponential of the paper's softmax is not simulated.
    """

    octaves = 1.0

    def fit(self, histogram: Histogram) -> None:
        """Set the scale to 1: there is nothing to choose."""
        self.set_parameters(1.0)
