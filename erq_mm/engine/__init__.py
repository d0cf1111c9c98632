"""The mmengine and mmdet side of the package; importing it checks the stack and registers the plugin."""

from .versions import check_stack

check_stack()

from .checkpoints import allow_training_checkpoints  # noqa: E402
from .hook import ERQHook  # noqa: E402

allow_training_checkpoints()

__all__ = ['ERQHook']
