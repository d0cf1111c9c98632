"""Processes of cells: only missing ones run, failures do not stop others, an interrupt leaves no half result."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from erq_mm.benchmark.cells import Cell, Store
from erq_mm.benchmark.detectors import Detector
from erq_mm.benchmark.scheduler import Scheduler, visible_gpus
from erq_mm.benchmark.session import failure_text, missing_cells
from erq_mm.calibration.progress import new_progress

WORKER = """
import json, os, pathlib, sys, time
request = json.loads(pathlib.Path(sys.argv[-1]).read_text())
seed = request['cell']['seed']
pathlib.Path(request['work_dir']).mkdir()
pathlib.Path(request['work_dir'] + '.pid').write_text(str(os.getpid()))
if seed == 666:
    sys.exit('this seed is cursed')
if seed == 99:
    time.sleep(60)
pathlib.Path(request['arrays']).write_bytes(b'')
result = {'seed': seed, 'threads': os.environ['OMP_NUM_THREADS'], 'jobs': request['jobs']}
result |= {'gpu': os.environ['CUDA_VISIBLE_DEVICES']} if 'CUDA_VISIBLE_DEVICES' in os.environ else {}
if seed >= 1000:
    while len(list(pathlib.Path(request['work_dir']).parent.glob('*.work.pid'))) < 4:
        time.sleep(0.01)
pathlib.Path(request['result']).write_text(json.dumps(result))
"""


class Study:
    """Some cells."""

    def __init__(self, cells: list[Cell]) -> None:
        self._cells = cells

    def cells(self) -> list[Cell]:
        return self._cells


@pytest.fixture
def make_cell(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Cell]:
    monkeypatch.setattr(Detector, 'digest', lambda self: self.name)
    return lambda seed: Cell('accuracy', Detector('d', 'c', 'p'), 'rtn', 4, 4, 1, seed)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list]:
    def start(cells: list[Cell], jobs: int = 2, gpus: tuple[str, ...] = ()) -> list:
        worker = [sys.executable, '-c', WORKER]
        with new_progress(enabled=False) as progress:
            return Scheduler(Store(tmp_path), jobs, 3, progress, worker, gpus).run(cells)

    return start


def test_a_second_call_runs_only_missing_cells(make_cell: Callable, run: Callable, tmp_path: Path) -> None:
    study, store = Study([make_cell(seed) for seed in (0, 1, 2)]), Store(tmp_path)
    assert run([make_cell(1)]) == []
    assert [cell.seed for cell in missing_cells([study, study], store, refresh=False)] == [0, 2]
    before = store.path(make_cell(1)).stat().st_mtime_ns
    assert run(missing_cells([study], store, refresh=False)) == []
    assert missing_cells([study], store, refresh=False) == []
    assert store.path(make_cell(1)).stat().st_mtime_ns == before
    assert store.read(make_cell(2)) == {'seed': 2, 'threads': '3', 'jobs': 2}
    assert not list(tmp_path.glob('*.request.json')) and not list(tmp_path.glob('*.work'))


def test_a_failing_cell_leaves_no_result_and_the_others_go_on(
    make_cell: Callable, run: Callable, tmp_path: Path
) -> None:
    failures = run([make_cell(666), make_cell(0)], jobs=1)
    store = Store(tmp_path)
    assert store.is_done(make_cell(0)) and not store.is_done(make_cell(666))
    assert [failure.cell.seed for failure in failures] == [666]
    text = failure_text(failures)
    assert 'this seed is cursed' in text and str(failures[0].log) in text and 'exit status 1' in text


def test_an_interrupt_kills_the_cells_in_work_and_loses_only_those(
    make_cell: Callable, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = make_cell(99), make_cell(0)
    store, sleep = Store(tmp_path), time.sleep
    pid_file = Path(f'{store.path(slow, ".work")}.pid')

    def interrupt_when_both_are_under_way(seconds: float) -> None:
        sleep(seconds)
        if store.is_done(quick) and pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr('erq_mm.benchmark.scheduler.time.sleep', interrupt_when_both_are_under_way)
    with pytest.raises(KeyboardInterrupt):
        run([slow, quick])
    assert store.is_done(quick) and not store.is_done(slow)
    assert not list(tmp_path.glob('*.work')) and not list(tmp_path.glob('*.request.json'))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_cells_are_spread_over_the_gpus(make_cell: Callable, run: Callable, tmp_path: Path) -> None:
    """Four side by side on two GPUs: two see either of them, and only that one."""
    cells = [make_cell(1000 + index) for index in range(4)]
    assert run(cells, jobs=4, gpus=('3', 'GPU-abc')) == []
    assert sorted(Store(tmp_path).read(cell)['gpu'] for cell in cells) == ['3', '3', 'GPU-abc', 'GPU-abc']


@pytest.mark.parametrize(
    ('named', 'count', 'expected'),
    [(None, 0, []), (None, 2, ['0', '1']), ('5, GPU-abc', 2, ['5', 'GPU-abc']), ('5,-1,6', 1, ['5']), ('', 0, [])],
)
def test_gpus_are_called_as_the_user_calls_them(
    named: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if named is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', named)
    monkeypatch.setattr('torch.cuda.device_count', lambda: count)
    assert visible_gpus() == expected


def test_refresh_runs_cells_of_other_code(make_cell: Callable, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(make_cell(0)).write_text(json.dumps({'provenance': {'code': 'another'}}))
    study = Study([make_cell(0)])
    assert missing_cells([study], store, refresh=False) == []
    assert missing_cells([study], store, refresh=True) == [make_cell(0)]
