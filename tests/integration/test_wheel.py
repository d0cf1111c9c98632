"""The wheel in an environment of its own, from an empty folder: nothing of the clone is in reach."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from erq_mm.cli import COMMANDS

from ..conftest import ROOT

DETECTOR = 'erq_mm::shapes/mask-rcnn_swin-mini_shapes.py'
CONFIG = f"""
_base_ = '{DETECTOR}'
default_hooks = dict(quantization=dict(type='ERQHook', recipe='rtn', w_bits=8, a_bits=8))
"""
EVERY_HELP = """
import sys
import erq_mm
from erq_mm.cli import main
from erq_mm.engine.shipped_configs import configs_folder

for name in sys.argv[1:]:
    try:
        main([name, '--help'])
    except SystemExit as end:
        assert end.code == 0, name
print(erq_mm.__file__)
print(configs_folder())
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy of the sources, as building leaves files among them."""
    folder = tmp_path_factory.mktemp('wheel')
    for name in ('erq_mm', 'configs'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in'):
        shutil.copy(ROOT / name, folder / name)
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', str(folder / 'dist')]
    _run(sys.executable, '-m', 'pip', '--disable-pip-version-check', 'wheel', '--quiet', *options, str(folder))
    (built,) = (folder / 'dist').glob('*.whl')
    return built


@pytest.fixture(scope='module')
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a new environment that has the wheel, and all that the tests' own has besides."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / 'bin/python'
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--python', str(python)]
    _run(*pip, 'install', '--quiet', '--no-deps', '--no-index', str(wheel))
    packages = Path(sysconfig.get_path('purelib', vars={'base': str(folder)}))
    # a .pth file inside a folder that comes by a .pth file is not read: the tests' editable install stays behind
    (packages / 'of_the_tests.pth').write_text(f'{sysconfig.get_path("purelib")}\n{sysconfig.get_path("platlib")}\n')
    return folder / 'bin'


@pytest.fixture
def run(programs: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a program of the new environment in an empty folder."""
    return lambda program, *arguments: _run(str(programs / program), *arguments, folder=tmp_path)


def _run(*command: str, folder: Path | None = None) -> str:
    """Run a command without a path to the clone; return what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f'{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
    return done.stdout


@pytest.mark.slow
def test_a_saved_detector_from_an_empty_folder(run: Callable, tiny_shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_shapes, tmp_path / 'data/shapes')
    shutil.copy(ROOT / 'configs/shapes/checkpoints/mask-rcnn_swin-mini.pth', tmp_path / 'float.pth')
    (tmp_path / 'mine.py').write_text(CONFIG)
    printed = run('erq-mm', 'quantize', 'mine.py', 'float.pth', '--out', 'model.safetensors')
    assert 'all quantized layers' in printed
    options = [f'test_dataloader.{key}' for key in ('num_workers=0', 'persistent_workers=False')]
    printed = run('erq-mm', 'test', DETECTOR, 'model.safetensors', '--cfg-options', *options)
    assert float(re.search(r'coco/bbox_mAP: ([.0-9]+)', printed)[1]) > 0.1


def test_the_package_and_its_commands_are_those_of_the_wheel(run: Callable, programs: Path) -> None:
    printed = run('python', '-c', EVERY_HELP, *COMMANDS)
    package, configs = map(Path, printed.splitlines()[-2:])
    assert package.is_relative_to(programs.parent) and configs == package.parent / '.mim/configs'
    assert all(f'usage: erq-mm {name} [-h]' in printed for name in COMMANDS)
    assert run('erq-mm', '--version').startswith('erq_mm ')


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs').rglob('*.py')}
    assert {name.removeprefix('erq_mm/.mim/') for name in names if '/.mim/configs/' in name} == shipped
    code = {str(path.relative_to(ROOT)) for path in (ROOT / 'erq_mm').rglob('*.py')}
    assert code | {'erq_mm/benchmark/published/imagenet.json', 'erq_mm/.mim/model-index.yml'} <= names
    assert not any(name.startswith(('tests', 'tools')) for name in names)
    assert wheel.stat().st_size < 2_000_000


def test_the_extras_that_messages_name_are_there(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith('.dist-info/METADATA')]
    extras = set(re.findall(r'Provides-Extra: ([\w-]+)', metadata))
    named = {
        name for path in (ROOT / 'erq_mm').rglob('*.py') for name in re.findall(r'erq_mm\[([\w-]+)', path.read_text())
    }
    assert named <= extras and {'mm', 'openvino', 'onnxruntime', 'deploy'} <= extras
