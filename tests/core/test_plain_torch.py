"""Dependencies point down, and this says so."""

import subprocess
import sys

import pytest

import erq_mm


def _imported_with(code: str, packages: set[str]) -> str:
    code = f'import sys; {code}; print({packages} & set(sys.modules))'
    return subprocess.check_output([sys.executable, '-c', code], text=True).strip()


@pytest.mark.parametrize('module', ['erq_mm.core', 'erq_mm.nn', 'erq_mm.calibration', 'erq_mm.export'])
def test_no_openmmlab_package_is_imported(module: str) -> None:
    assert _imported_with(f'import {module}', {'mmengine', 'mmcv', 'mmdet'}) == 'set()'


def test_the_api_needs_torch_alone() -> None:
    assert _imported_with('from erq_mm import *', {'mmengine', 'mmcv', 'mmdet', 'torch'}) == "{'torch'}"


def test_the_package_itself_needs_nothing() -> None:
    assert _imported_with('import erq_mm.cli', {'torch', 'numpy', 'rich', 'mmengine'}) == 'set()'


def test_every_name_of_the_api_is_found() -> None:
    assert set(erq_mm.__all__) <= set(dir(erq_mm))
    assert all(getattr(erq_mm, name) is not None for name in erq_mm.__all__)
    with pytest.raises(AttributeError, match='quantise_'):
        erq_mm.quantise_  # noqa: B018
