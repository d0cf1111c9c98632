"""torchvision imports beside a torch that its compiled library does not fit, and is left alone everywhere else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
# what torchvision does on import: its library registers the operators, and Python code extends them
FAKE = """
import torch
try:
    torch.ops.load_library(__file__.replace('__init__.py', '_C.so'))
except OSError:
    own = None
else:
    own = torch.library.Library('torchvision', 'DEF')
    own.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    own.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
torch.library.register_fake('torchvision::nms')(lambda dets, scores, iou_threshold: scores)
torch.library.register_fake('torchvision::qnms')(lambda dets, scores, iou_threshold: scores)
"""
# a process per case, because a declaration cannot be taken back; they share one import of torch
DRIVER = """
import importlib.util, json, os, sys
import torch
from erq_mm.torchvision_schemas import declare_missing_operators as declare

def block(name):
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda wanted: None if wanted == name else find(wanted)

for folder, case in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        if folder:
            sys.path.insert(0, folder)
        try:
            print(eval(case), flush=True)
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
CASES = {
    'symptom': ('broken', "__import__('torchvision').own"),
    'broken': ('broken', "declare(), declare(), __import__('torchvision').own, declare()"),
    'proper, first': ('proper', "declare(), bool(__import__('torchvision').own), declare()"),
    'proper, imported': ('proper', "bool(__import__('torchvision').own), declare()"),
    'absent': ('broken', "block('torchvision'), declare(), hasattr(torch.ops.torchvision, 'nms')"),
    'no library': ('pure', 'declare()'),
}


@pytest.fixture(scope='module')
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each case printed."""
    folder = tmp_path_factory.mktemp('fakes')
    for kind in ('broken', 'proper', 'pure'):
        package = folder / kind / 'torchvision'
        package.mkdir(parents=True)
        (package / '__init__.py').write_text(FAKE)
    (folder / 'broken/torchvision/_C.so').write_bytes(b'not a library')
    shutil.copy(Path(torch.__file__).parent / 'lib/libtorch.so', folder / 'proper/torchvision/_C.so')  # any that loads
    cases = json.dumps([(str(folder / kind), case) for kind, case in CASES.values()])
    done = subprocess.run(
        [sys.executable, '-c', DRIVER, cases], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return dict(zip(CASES, done.stdout.splitlines(), strict=True))


def test_a_library_that_does_not_load_is_replaced_by_declarations(printed: dict[str, str]) -> None:
    assert printed['symptom'] == 'operator torchvision::nms does not exist'
    assert printed['broken'] == '(True, False, None, False)'  # imported, and once is enough


def test_a_library_that_loads_declares_its_operators_itself(printed: dict[str, str]) -> None:
    # declaring an operator a second time is an error of torch, so the fake's own declaration is the assertion
    assert printed['proper, first'] == '(False, True, False)'
    assert printed['proper, imported'] == '(True, False)'


def test_nothing_is_done_without_torchvision_or_without_its_library(printed: dict[str, str]) -> None:
    assert printed['absent'] == '(None, False, False)'
    assert printed['no library'] == 'False'


def test_the_installed_one_imports_and_is_in_the_environment_report() -> None:
    pytest.importorskip('timm', reason='timm is an extra')
    import torchvision
    from mmengine.utils.dl_utils import collect_env

    assert collect_env()['TorchVision'] == torchvision.__version__
    assert torchvision.transforms.functional.resize(torch.zeros(3, 4, 4), 2).shape == (3, 2, 2)


def test_the_symptom_is_repaired_before_the_stack_is_checked() -> None:
    lines = (ROOT / 'erq_mm/engine/__init__.py').read_text().splitlines()
    calls = [line.split('(')[0] for line in lines if line.startswith(('declare_missing_operators(', 'check_stack('))]
    assert calls == ['declare_missing_operators', 'check_stack']
