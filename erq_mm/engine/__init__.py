"""The mmengine and mmdet side of the package; importing it checks the stack and registers the plugin."""

import warnings

from ..torchvision_schemas import declare_missing_operators
from .versions import check_stack

# mmengine 0.10.7 says so at every config it reads; the version check knows what to do when it breaks
warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
declare_missing_operators()  # first: mmdet and mmengine's environment report import torchvision where it is
check_stack()

from .backends import BackendHook  # noqa: E402
from .checkpoints import allow_training_checkpoints  # noqa: E402
from .hook import ERQHook  # noqa: E402
from .inference import quantize_detector_  # noqa: E402
from .quantized_detector import build_quantized_detector  # noqa: E402
from .saved_checkpoints import register_loader  # noqa: E402
from .shipped_configs import register_config_names  # noqa: E402

allow_training_checkpoints()
register_loader()
register_config_names()

__all__ = ['BackendHook', 'ERQHook', 'build_quantized_detector', 'quantize_detector_']
