"""Dependencies point down, and this says so."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize('module', ['erq_mm', 'erq_mm.core', 'erq_mm.nn', 'erq_mm.calibration'])
def test_no_openmmlab_package_is_imported(module: str) -> None:
    code = f'import sys, {module}; print({{"mmengine", "mmcv", "mmdet"}} & set(sys.modules))'
    assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == 'set()'
