"""Quantized layers that run as integers inside torch: oneDNN's int8 products take the place of the simulation."""

from .deployment import Deployment, deploy_
from .modules import IntegerConv2d, IntegerLayer, IntegerLinear

__all__ = ['Deployment', 'IntegerConv2d', 'IntegerLayer', 'IntegerLinear', 'deploy_']
