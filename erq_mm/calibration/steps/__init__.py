"""The steps a recipe can name.

A model step sees the whole calibration (it may run forwards); layer steps in a row are applied layer by layer, so that
one layer's matrices are freed before the next one's are made.
"""

from ..state import Calibration, SiteState
from .collect_statistics import collect_statistics
from .fit_activations import fit_activations
from .reparameterize import reparameterize
from .weights import aqer, fit_weights, wqer

MODEL_STEPS = {
    'fit_activations': fit_activations,
    'reparameterize': reparameterize,
    'collect_statistics': collect_statistics,
}
LAYER_STEPS = {'aqer': aqer, 'fit_weights': fit_weights, 'wqer': wqer}

__all__ = ['LAYER_STEPS', 'MODEL_STEPS', 'Calibration', 'SiteState']
