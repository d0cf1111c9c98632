"""Run missing cells in processes, a few at a time; Ctrl-C loses at most the cells in work."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress, TaskID

from .cells import Cell, Store
from .storage import write_json

POLL_SECONDS = 0.1
TAIL_LINES = 12
WORKER = (sys.executable, '-m', 'erq_mm.benchmark.worker')


def visible_gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    return [name.strip() for name in named.split(',')][:count] if named else [str(index) for index in range(count)]


@dataclass(frozen=True)
class Failure:
    """A cell that ended without a result, with the last lines it printed."""

    cell: Cell
    log: Path
    tail: str


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen
    task: TaskID
    gpu: str | None


class Scheduler:
    """Runs each cell in a process, `jobs` at a time.

    Args:
        store: where results go.
        jobs: processes side by side. Seconds measured with several are labelled so.
        threads: of each process.
        progress: a started display.
        command: what is run, with the path of a request file as its last argument (see `worker.main`).
        gpus: `visible_gpus`; every process sees one of them, the one with the fewest processes.
    """

    def __init__(
        self,
        store: Store,
        jobs: int,
        threads: int,
        progress: Progress,
        command: Sequence[str] = WORKER,
        gpus: Sequence[str] = (),
    ) -> None:
        self.store, self.jobs, self.threads, self.gpus = store, jobs, threads, gpus
        self.progress, self.command = progress, command
        self._running: list[_Running] = []

    def run(self, cells: list[Cell]) -> list[Failure]:
        """Run the cells in order and return those that failed; the others go on. Ends all processes on the way out."""
        waiting, failures = list(cells), []
        bar = self.progress.add_task('cells', total=len(cells))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    self._start(waiting.pop(0))
                time.sleep(POLL_SECONDS)
                for job in [job for job in self._running if job.process.poll() is not None]:
                    failures += self._finish(job)
                    self.progress.advance(bar)
        finally:
            for job in list(self._running):
                self._stop(job)
        return failures

    def _start(self, cell: Cell) -> None:
        request, log = self.store.path(cell, '.request.json'), self.store.path(cell, '.log')
        write_json(
            request,
            {
                'cell': cell.to_dict(),
                'result': str(self.store.path(cell)),
                'arrays': str(self.store.path(cell, '.npz')),
                'work_dir': str(self.store.path(cell, '.work')),
                'jobs': self.jobs,
            },
        )
        environment = os.environ | {name: str(self.threads) for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')}
        gpu = self._freest_gpu()
        if gpu is not None:
            environment['CUDA_VISIBLE_DEVICES'] = gpu
        with open(log, 'w') as output:
            process = subprocess.Popen(
                [*self.command, str(request)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a group of its own, so that its data loaders end with it
            )
        self._running.append(_Running(cell, process, self.progress.add_task(f'  {cell.name}', total=None), gpu))

    def _freest_gpu(self) -> str | None:
        taken = Counter(job.gpu for job in self._running)
        return min(self.gpus, key=lambda gpu: taken[gpu], default=None)

    def _finish(self, job: _Running) -> list[Failure]:
        self._forget(job)
        if job.process.returncode == 0 and self.store.is_done(job.cell):
            return []
        log = self.store.path(job.cell, '.log')
        lines = log.read_text(errors='replace').splitlines()
        ending = f'(exit status {job.process.returncode})'
        return [Failure(job.cell, log, '\n'.join([*lines[-TAIL_LINES:], ending]))]

    def _stop(self, job: _Running) -> None:
        if job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()
        self._forget(job)

    def _forget(self, job: _Running) -> None:
        self._running.remove(job)
        self.progress.remove_task(job.task)
        self.store.path(job.cell, '.request.json').unlink(missing_ok=True)
        shutil.rmtree(self.store.path(job.cell, '.work'), ignore_errors=True)
