"""What a classification config needs beside mmdet: one sentence where it is missing, before anything runs."""

import importlib
from importlib.util import find_spec

PACKAGES = ('torchvision', 'timm', 'mmpretrain')
INSTALL = "pip install 'erq_mm[timm]'"


def require_packages() -> None:
    """Import what classifiers stand on.

    Raises:
        ImportError: naming the packages that are missing or cannot be imported, and the command that installs them.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f'classification configs need {" and ".join(missing)}: {INSTALL}')
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken package raises
            raise ImportError(
                f'classification configs need {name}, which cannot be imported ({type(error).__name__}: {error}): '
                f'{INSTALL}'
            ) from None
