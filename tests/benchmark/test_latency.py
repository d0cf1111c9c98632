"""Times and differences of deployed detectors: the arithmetic by hand, the whole on the demo detector."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from erq_mm.benchmark.detectors import resolve_detector
from erq_mm.benchmark.latency.eager import FLOAT, FLOAT_FAST, measure_eager
from erq_mm.benchmark.latency.faithfulness import compare_levels, compare_with_simulation
from erq_mm.benchmark.latency.timing import interleaved, speedup

from ..conftest import ROOT
from ..engine.conftest import CONFIG


def test_rounds_are_interleaved_after_one_to_warm_up() -> None:
    order = []
    runs = {name: lambda n=name: order.append((n, torch.is_inference_mode_enabled())) for name in 'ab'}
    seconds = interleaved(runs, repeats=2)
    assert order == [('a', True), ('b', True)] * 3
    assert all(len(times) == 2 and min(times) >= 0 for times in seconds.values())
    with pytest.raises(ValueError, match='repeats must be at least 1, got 0'):
        interleaved(runs, 0)


def test_speedup_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    assert speedup([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == (2.0, 1.0, 3.0)


def test_differences_of_levels_by_hand() -> None:
    """Level 0 differs by 0.5 of 4, signal 16 + 4 to noise 0.25; level 1 not at all."""
    wanted = [(torch.tensor([4.0]), torch.tensor([1.0])), (torch.tensor([2.0]), torch.tensor([3.0]))]
    found = [(torch.tensor([3.5]), torch.tensor([1.0])), (torch.tensor([2.0]), torch.tensor([3.0]))]
    largest, sqnr = compare_levels(found, wanted)
    assert largest == 0.125 and sqnr == pytest.approx(10 * math.log10(20 / 0.25))
    assert compare_levels(wanted, wanted) == (0.0, math.inf)
    with pytest.raises(ValueError, match='1 and 2 images cannot be compared'):
        compare_levels(found[:1], wanted)


def test_eager_rows() -> None:
    rows = measure_eager(('detector',), ((4, 8),), image=(96, 128), repeats=1, config=CONFIG)
    assert [(row.subject, row.engine) for row in rows] == [
        ('detector 96x128', FLOAT), ('detector 96x128', FLOAT_FAST), ('detector 96x128', 'PyTorch int8, W4A8'),
    ]  # fmt: skip
    assert all(row.speedup == (1.0, 1.0, 1.0) for row in rows if row.engine == FLOAT)
    assert rows[2].integer.splitlines()[1] == '8 RoIAlign run as sums of embeddings'
    with pytest.raises(ValueError, match=r"subjects must be of \('backbone', 'detector'\), got \['neck'\]"):
        measure_eager(('neck',))


@pytest.mark.slow
def test_deployed_detector_is_faithful(tiny_detector: dict[str, Any], tmp_path: Path) -> None:
    detector = resolve_detector(tiny_detector, ROOT)
    found = compare_with_simulation(detector, 'rtn_w4a8_deploy', tmp_path, images=3)
    # single codes move at ties; min-max ranges have the coarsest steps
    assert found.largest_difference < 5e-3 and found.sqnr_db > 55
    assert abs(found.simulated['box'] - found.deployed['box']) < 1
    assert 'quantized layers and products run as integers' in found.summary
