"""Let a torchvision whose compiled operators do not fit this torch be imported.

The PyPI wheel of torchvision is compiled against the CUDA build of torch. Beside the CPU build its library does not
load, and the import fails on the first of two operators that its Python code extends: `operator torchvision::nms does
not exist`. Declaring the two is enough; what needs the operators themselves (torchvision's detection models) stays
unusable, what timm, mmpretrain and mmengine's environment report need (transforms, plain models, the version) does not.
"""

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from pathlib import Path

import torch

SIGNATURE = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
OPERATORS = ('nms', 'qnms')
_declared: torch.library.Library | None = None  # the declarations live as long as this object


def declare_missing_operators() -> bool:
    """Declare the operators that torchvision's import needs, where its own library will not; say whether it was done.

    Nothing is done without torchvision, or where the operators are there, or where torchvision's library loads with
    this torch: it declares them itself and must not find them declared.
    """
    global _declared
    library = _compiled_library()
    if library is None or _known('nms') or _loads(library):
        return False
    _declared = torch.library.Library('torchvision', 'DEF')
    for operator in OPERATORS:
        _declared.define(operator + SIGNATURE)
    return True


def _compiled_library() -> Path | None:
    """Return the library that torchvision loads when it is imported, found by its own rule, without importing it."""
    package = importlib.util.find_spec('torchvision')
    if package is None or not package.submodule_search_locations:
        return None
    folder = str(Path(package.submodule_search_locations[0]).resolve())
    library = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec('_C')
    return None if library is None else Path(library.origin)


def _known(operator: str) -> bool:
    return hasattr(torch.ops.torchvision, operator)


def _loads(library: Path) -> bool:
    """Load it as torchvision will; a library is loaded once per process, however often it is asked for."""
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True
