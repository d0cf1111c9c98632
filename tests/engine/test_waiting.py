"""Ranks that wait for rank 0: as long as it takes, and no longer than it lives."""

import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from erq_mm.calibration.pipeline import quantize_
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.engine import waiting
from erq_mm.engine.distribution import on_rank_zero, quantize_on_all_ranks

from ..conftest import free_port

TIMEOUT = 2.0  # of the collectives; the work takes longer


def _model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()


def _slow_calibration(model: nn.Module) -> tuple:
    time.sleep(TIMEOUT + 1.5)
    x, overrides = torch.randn(64, 8), {'3': 'float'}
    plan = plan_quantization(model, resolve_recipe('erq'), 4, 4, 'linears', overrides)
    return quantize_(model, lambda m: m(x), 'erq', overrides=overrides), plan


def _fail() -> None:
    time.sleep(TIMEOUT + 1)
    raise ValueError('no images')


def _rank(rank: int, port: int, folder: Path) -> None:
    """Calibrate, fail, and die in the middle of the work, as rank 0; write what the other rank sees of it."""
    dist.init_process_group(
        'gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT)
    )
    model = _model(seed=0)
    report = quantize_on_all_ranks(model, lambda: _slow_calibration(model))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        output = model(torch.ones(2, 8))
    torch.save({'state': state, 'output': output, 'layers': [x.name for x in report.layers]}, folder / f'{rank}.pth')
    try:
        on_rank_zero(_fail)
    except Exception as error:
        (folder / f'{rank}.failure').write_text(f'{type(error).__name__}: {error}')
    started = time.monotonic()
    try:
        on_rank_zero(lambda: time.sleep(1) or os._exit(7))
    except Exception as error:
        (folder / f'{rank}.death').write_text(f'{type(error).__name__}: {error}')
        (folder / f'{rank}.seconds').write_text(str(time.monotonic() - started))
    os._exit(0)  # gloo's threads abort in the teardown of an interpreter now and then


@pytest.fixture(scope='module')
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks wrote, rank 0 of which hosts the store, as without torchrun."""
    folder = tmp_path_factory.mktemp('ranks')
    port = free_port()
    ranks = [mp.get_context('spawn').Process(target=_rank, args=(rank, port, folder)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [7, 0]  # rank 0 dies on purpose
    return folder


def test_a_calibration_longer_than_the_collectives_timeout(outcome: Path) -> None:
    zero, one = (torch.load(outcome / f'{rank}.pth', weights_only=True) for rank in (0, 1))
    assert zero['layers'] == one['layers'] == ['1']  # with the plan of rank 0
    assert zero['state'].keys() == one['state'].keys()
    assert all(torch.equal(zero['state'][key], one['state'][key]) for key in zero['state'])
    assert torch.equal(zero['output'], one['output'])  # the quantizers are on


def test_the_error_of_rank_zero_reaches_the_others(outcome: Path) -> None:
    assert (outcome / '0.failure').read_text() == 'ValueError: no images'
    wanted = 'RuntimeError: calibration failed on rank 0: ValueError: no images'
    assert (outcome / '1.failure').read_text() == wanted


def test_a_rank_zero_that_dies_is_noticed(outcome: Path) -> None:
    assert 'RuntimeError: rank 1 waited for rank 0, which calibrates, and lost it' in (outcome / '1.death').read_text()
    assert float((outcome / '1.seconds').read_text()) < 10


def test_a_rank_zero_without_a_sign_of_life_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process hosts the store (torchrun's agent), the store outlives rank 0."""
    monkeypatch.setattr(waiting, 'PATIENCE_SECONDS', 0.5)
    monkeypatch.setattr(waiting, 'POLL_SECONDS', 0.02)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match='no sign of life'):
        waiting._wait(dist.HashStore(), 'key')
    assert time.monotonic() - started < 5


def test_beats_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the patience, while rank 0 works; then the others go on at once."""
    monkeypatch.setattr(waiting, 'PATIENCE_SECONDS', 0.5)
    monkeypatch.setattr(waiting, 'BEAT_SECONDS', 0.05)
    monkeypatch.setattr(waiting, 'POLL_SECONDS', 0.02)
    store, stopped = dist.HashStore(), threading.Event()
    heart = threading.Thread(target=waiting._beat, args=(store, 'key', stopped))
    heart.start()
    threading.Timer(2.0, lambda: store.set('key/done', '1')).start()
    started = time.monotonic()
    waiting._wait(store, 'key')
    assert 1.9 < time.monotonic() - started < 4
    stopped.set()
    heart.join()


def test_one_process_just_runs() -> None:
    assert on_rank_zero(lambda: 3) == 3
