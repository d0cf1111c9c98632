"""Fit one unit after the other, each on the outputs of those before it as they are quantized, with float targets."""

from typing import Any

import torch

from ..precision import full_precision
from ..sequential.damping import damping_notes
from ..sequential.dealing import dealing_notes
from ..sequential.fitting import LayerFitter
from ..sequential.options import SequentialOptions
from ..sequential.sequence import LayerSequence
from ..state import Calibration


def sequential(calibration: Calibration, **options: Any) -> None:
    """Quantize the model from its first unit to its last.

    Args:
        options: fields of `SequentialOptions`.
    """
    chosen = SequentialOptions(**options)
    with torch.no_grad(), full_precision():
        sequence = LayerSequence(calibration, chosen.rows, chosen.mixed_regions)
        fitter = LayerFitter(calibration, sequence.reference, chosen)
        sequence.run(fitter)
        calibration.notes += damping_notes(fitter.left_out, fitter.damped) + dealing_notes(fitter.dealt)
