"""Post-training quantization of Swin detectors for mmdet 3.x.

The Python API needs torch alone; `import erq_mm.engine` registers the mmengine plugin. What is exported here is
imported when it is first used, so that `erq-mm --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors; HOMES says the same
    from .calibration.pipeline import quantize_ as quantize_
    from .calibration.recipes import RECIPES as RECIPES
    from .calibration.report import Report as Report
    from .calibration.task import CalibrationTask as CalibrationTask
    from .calibration.task import ClassifierTask as ClassifierTask
    from .core.pixel_levels import PixelLevels as PixelLevels
    from .export.checkpoint import save_quantized as save_quantized
    from .export.integer import deploy_ as deploy_
    from .loading import load_quantized as load_quantized

__version__ = '0.1.0'
HOMES = {
    'RECIPES': 'calibration.recipes',
    'CalibrationTask': 'calibration.task',
    'ClassifierTask': 'calibration.task',
    'PixelLevels': 'core.pixel_levels',
    'Report': 'calibration.report',
    'deploy_': 'export.integer',
    'load_quantized': 'loading',
    'quantize_': 'calibration.pipeline',
    'save_quantized': 'export.checkpoint',
}
__all__ = ['__version__', *HOMES]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = value = getattr(import_module(f'.{HOMES[name]}', __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
