"""The `onnx` package, which only exports need."""

from types import ModuleType


def import_onnx() -> ModuleType:
    """Return the module.

    Raises:
        ImportError: naming the extra that installs it.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(
            "exporting needs the package onnx: pip install 'erq_mm[deploy]' (or: pip install onnx)"
        ) from error
    return onnx
