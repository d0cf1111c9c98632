"""Without the packages of classifiers their configs say what to install."""

import sys

import pytest

import erq_mm.engine.classification  # noqa: F401  so that what follows finds its modules
from erq_mm.engine.classification.packages import require_packages
from erq_mm.engine.evaluation import load_config, main

from ...conftest import ROOT

INSTALL = r"classification configs need timm and mmpretrain: pip install 'erq_mm\[timm\]'"


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm and mmpretrain not be found, and the package that needs them not be imported yet."""
    for name in ('timm', 'mmpretrain'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, 'erq_mm.engine.classification')


def test_a_config_says_what_to_install_before_anything_else(without_packages: None) -> None:
    config = str(ROOT / 'configs/imagenet/deit-s.py')
    with pytest.raises(ImportError, match=f'^{INSTALL}$'):
        main(None, [config, 'missing.pth', '--recipe', 'erq_w4a4'])
    with pytest.raises(ImportError, match=f'^{INSTALL}$'):
        load_config(config)


def test_other_imports_that_fail_are_named(tmp_path) -> None:
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports=['no_such_package_of_mine'])")
    with pytest.raises(ImportError, match="^No module named 'no_such_package_of_mine'$"):
        load_config(str(tmp_path / 'mine.py'))


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr('erq_mm.engine.classification.packages.importlib.import_module', broken)
    with pytest.raises(
        ImportError, match=r'need torchvision, which cannot be imported \(RuntimeError: .*nms.*pip inst'
    ):
        require_packages()
