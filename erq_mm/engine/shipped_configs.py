"""The configs of this package by name, `erq_mm::swin/...`, in a clone and in an installed wheel alike."""

import difflib
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

PACKAGE = Path(__file__).parent.parent
PREFIX = 'erq_mm::'


def configs_folder() -> Path:
    """Return where the configs are: in the package, where setup.py puts them into a wheel, or beside it in a clone."""
    installed = PACKAGE / '.mim/configs'
    return installed if installed.is_dir() else PACKAGE.parent / 'configs'


def is_shipped(name: str) -> bool:
    """Whether a name means a config of this package."""
    return name.startswith(PREFIX)


def shipped_config(name: str) -> Path:
    """Return the file of `erq_mm::folder/file.py`.

    Raises:
        FileNotFoundError: naming the nearest configs.
    """
    folder, wanted = configs_folder(), name.removeprefix(PREFIX)
    path = folder / wanted
    if not path.is_file():
        known = sorted(str(found.relative_to(folder)) for found in folder.rglob('*.py'))
        close = difflib.get_close_matches(wanted, known, n=3)
        hint = f'did you mean {" or ".join(PREFIX + one for one in close)}?' if close else f'see {folder}'
        raise FileNotFoundError(f'erq_mm has no config {wanted!r}; {hint}')
    return path


def register_config_names() -> None:
    """Let configs say `_base_ = 'erq_mm::swin/...'`; all other names go where they went.

    mmengine knows a closed list of packages, and looks for configs in installed ones alone. It also makes the package
    the scope of all types in the config; ours are found in that of mmdet, as if the base were a file.
    """
    look_up = Config._get_cfg_path

    def find_base(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if is_shipped(cfg_path):
            return str(shipped_config(cfg_path)), None
        return look_up(cfg_path, filename)

    find_base.is_of_erq_mm = True
    if not getattr(look_up, 'is_of_erq_mm', False):
        Config._get_cfg_path = staticmethod(find_base)
    MODULE2PACKAGE['erq_mm'] = 'erq_mm'  # for mmengine.hub.get_config, where a wheel is installed
