"""Thousands of spoilt files, and killed saves: an error that names the file, or the whole model, never half of it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from erq_mm.export.checkpoint import load_into_, save_quantized
from erq_mm.nn.layers import QuantLayer

from .models import fresh, make_bare, quantized
from .mutations import spoil

SUFFIXES = ('.safetensors', '.pth')


@pytest.mark.parametrize(('count', 'suffix'), [(150, suffix) for suffix in SUFFIXES])
def test_some_spoilt_files(tmp_path, count, suffix):
    outcomes = try_spoilt_files(tmp_path, count, suffix)
    assert outcomes['refused'] > 0.7 * count


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_ten_thousand_spoilt_files(tmp_path, suffix):
    print(suffix, try_spoilt_files(tmp_path, 5000, suffix))


def try_spoilt_files(folder: Path, count: int, suffix: str, seed: int = 0) -> Counter:
    """Return how often a spoilt file was refused, and how often it was one that can be loaded all the same."""
    source, path = folder / f'model{suffix}', folder / f'spoilt{suffix}'
    save_quantized(quantized(make_bare)[0], source)
    rng, outcomes = random.Random(seed), Counter()
    model = fresh(make_bare)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for index in range(count):
        kind = spoil(path, source, rng)
        if path.read_bytes() == source.read_bytes():
            continue
        try:
            load_into_(model, path)
        except ValueError as error:
            assert path.name in str(error), f'{index} {kind}: {error}'
            assert list(model.state_dict()) == list(before), f'{index} {kind}'
            assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()), f'{index} {kind}'
            outcomes['refused'] += 1
        else:
            check_whole(model, f'{index} {kind}')
            model = fresh(make_bare)
            outcomes['loaded'] += 1
            outcomes[f'loaded after {kind}'] += 1
    return outcomes


def check_whole(model: torch.nn.Module, what: str) -> None:
    """Assert that all layers are quantized and run; what was signed again may have other values."""
    assert what.split()[1].startswith('signed'), what
    layers = [module for module in model.modules() if isinstance(module, QuantLayer)]
    assert layers, what
    with torch.no_grad():
        assert model(torch.randn(1, 3, 8, 8)).shape == (1, 64, 5), what


SAVE = """
import sys
from tests.export.models import make_bare, quantized
from erq_mm.export.checkpoint import save_quantized
import torch
path = sys.argv[1]
model, _ = quantized(make_bare, 'rtn')
model.register_buffer('ballast', torch.zeros(2_000_000))
print('ready', flush=True)
while True:
    model.ballast += 1
    save_quantized(model, path)
"""


def test_killed_while_saving(tmp_path):
    assert kill_while_saving(tmp_path, 1, '.safetensors') == 1


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_thirty_kills(tmp_path, suffix):
    assert kill_while_saving(tmp_path, 15, suffix) == 15


def kill_while_saving(folder: Path, kills: int, suffix: str) -> int:
    """Kill a process that saves over and over at random moments; returns how often the file was whole."""
    path, rng, whole = folder / f'model{suffix}', random.Random(1), 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, '-c', SAVE, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {'OMP_NUM_THREADS': '1'},
            cwd=Path(__file__).parents[2],
        )
        process.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        model = fresh(make_bare)
        model.register_buffer('ballast', torch.zeros(2_000_000))
        load_into_(model, path)
        assert len(model.ballast.unique()) == 1 and model.ballast[0] > 0
        whole += 1
    return whole
