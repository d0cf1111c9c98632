"""ImageNet classifiers of timm as mmengine models; importing it registers them, their data sets and their metric.

A config says `custom_imports = dict(imports=['erq_mm.engine', 'erq_mm.engine.classification'])`.
"""

from .packages import require_packages

require_packages()

from .class_count import ClassCountHook  # noqa: E402
from .datasets import ImageFolder, ImageNetFolder  # noqa: E402
from .metrics import TopKAccuracy  # noqa: E402
from .model import TimmImageClassifier  # noqa: E402
from .pretrained import register_timm_scheme  # noqa: E402
from .transforms import LoadRGBImage, TimmPreprocess  # noqa: E402

register_timm_scheme()

__all__ = [
    'ClassCountHook',
    'ImageFolder',
    'ImageNetFolder',
    'LoadRGBImage',
    'TimmImageClassifier',
    'TimmPreprocess',
    'TopKAccuracy',
]
