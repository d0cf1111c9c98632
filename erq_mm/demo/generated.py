"""Data sets made on the user's machine: written whole, once, and recognized later by a stamp."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_once(root: Path, stamp: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Let `write` fill a neighbouring folder, and rename it when it is complete.

    Args:
        stamp: what makes the set this one (version, seed, sizes); a complete set with the same stamp is left alone.

    Raises:
        FileExistsError: `root` exists and holds something else.
    """
    if root.exists():
        if (root / 'stamp.json').exists() and json.loads((root / 'stamp.json').read_text()) == stamp:
            return
        raise FileExistsError(
            f'{root} exists and is not this data set ({stamp}); move it away or choose another folder'
        )
    unfinished = root.with_name(f'{root.name}.unfinished-{os.getpid()}')
    try:
        write(unfinished)
        (unfinished / 'stamp.json').write_text(json.dumps(stamp))
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
