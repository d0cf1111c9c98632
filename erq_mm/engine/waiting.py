"""Wait for rank 0 without a collective: those give up after minutes, and rank 0 may calibrate for hours."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from mmengine.dist import get_rank

POLL_SECONDS = 0.2
BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 180.0  # without a beat for so long rank 0 is taken for dead: stopped, or lost with its machine

_numbers = itertools.count()  # waits happen in the same order on all ranks, so that they agree on the keys


@contextmanager
def others_wait() -> Iterator[None]:
    """Let the other ranks wait until the block ends, on rank 0; the block of the others is entered when it did.

    Raises:
        RuntimeError: on the other ranks, if rank 0 cannot be reached or shows no sign of life.
    """
    store, key = dist.distributed_c10d._get_default_store(), f'erq_mm/{next(_numbers)}'
    if get_rank() != 0:
        _wait(store, key)
        yield
        return
    stopped = threading.Event()
    heart = threading.Thread(target=_beat, args=(store, key, stopped), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stopped.set()
        heart.join()
        store.set(f'{key}/done', '1')


def _beat(store: dist.Store, key: str, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_SECONDS):
        store.add(f'{key}/beats', 1)


def _wait(store: dist.Store, key: str) -> None:
    beats, heard = 0, time.monotonic()
    try:
        while not store.check([f'{key}/done']):
            latest = store.add(f'{key}/beats', 0)
            if latest != beats:
                beats, heard = latest, time.monotonic()
            elif time.monotonic() - heard > PATIENCE_SECONDS:
                raise TimeoutError(f'it has shown no sign of life for {PATIENCE_SECONDS:.0f} s')
            time.sleep(POLL_SECONDS)
    except (RuntimeError, TimeoutError) as error:  # torch's errors of a lost connection are RuntimeErrors
        raise RuntimeError(
            f'rank {get_rank()} waited for rank 0, which calibrates, and lost it: {error}. See the log of rank 0'
        ) from error
