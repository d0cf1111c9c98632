"""Times of functions beside each other, as CPU time of the process: other processes slow it little."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def interleaved(runs: Mapping[str, Callable[[], Any]], repeats: int = 5) -> dict[str, list[float]]:
    """Return seconds of CPU time of every run, in rounds: each function once per round, after one round to warm up.

    Args:
        runs: name -> function without gradients.
        repeats: rounds.

    Raises:
        ValueError: fewer than one round.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, got {repeats}')
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for run in runs.values():
            run()
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.process_time()
                run()
                seconds[name].append(time.process_time() - start)
    return seconds


def speedup(reference: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return how many times as fast `other` is: the median over rounds, the least and the largest."""
    ratios = [slow / fast for slow, fast in zip(reference, other, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
