"""Post-training quantization of Swin detectors for mmdet 3.x.

The Python API needs torch alone; `import erq_mm.engine` registers the mmengine plugin.
"""

from .calibration.pipeline import quantize_
from .calibration.recipes import RECIPES
from .calibration.report import Report
from .calibration.task import CalibrationTask, ClassifierTask
from .export.checkpoint import save_quantized
from .export.integer import deploy_
from .loading import load_quantized

__version__ = '0.1.0'
__all__ = [
    'RECIPES',
    'CalibrationTask',
    'ClassifierTask',
    'Report',
    '__version__',
    'deploy_',
    'load_quantized',
    'quantize_',
    'save_quantized',
]
