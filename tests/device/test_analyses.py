"""Analyses, peak memory, clocks and random numbers where the model is on a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from erq_mm.analysis.distributions import channel_quantiles, range_spread
from erq_mm.analysis.operations import count_macs
from erq_mm.analysis.proxy import compare_proxy
from erq_mm.analysis.recording import record_inputs
from erq_mm.calibration.memory import PeakMemory, process_peak_bytes
from erq_mm.calibration.stopwatch import Stopwatch

from .logical_device import LogicalDevice
from .models import make_plain


def test_analyses_give_on_the_gpu_what_they_give_on_the_cpu(device: torch.device) -> None:
    model, shape = make_plain()
    x, weight, others = torch.randn(shape), torch.randn(6, 12), torch.randn(30, 12)
    found = []
    for place in (torch.device('cpu'), device):
        model.to(place)
        rows = record_inputs(model, ['5'], lambda m, p=place: m(x.to(p)))['5']
        quantiles = channel_quantiles(rows)
        trials = compare_proxy(weight.to(place), others.to(place), others[:9].to(place), bits=4, trials=20)
        results = [rows, quantiles, trials.proxy, trials.calibration_error, trials.other_error]
        assert {t.device for t in results} == {place}
        found.append([t.cpu() for t in results] + [torch.tensor(range_spread(quantiles))])
        assert count_macs(model, lambda m, p=place: m(x.to(p)))['5'] == 4 * 144 * 16
    for on_cpu, on_gpu in zip(*found, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['operations', 'distributions', 'proxy'])
def test_analysis_cells_run_where_the_evaluation_would(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a cell are on the CPU, its model on the GPU, its arrays NumPy's."""
    pytest.importorskip('mmdet')
    from erq_mm.benchmark import analyses

    class Task:
        def __call__(self, model: nn.Module) -> None:
            place = next(model.parameters()).device
            assert place == torch.device('cuda:0')
            model(torch.linspace(-1, 1, 2700).view(4, 3, 15, 15).to(place))

    with LogicalDevice():
        monkeypatch.setattr(analyses, 'get_device', lambda: 'cuda')
        monkeypatch.setattr(analyses, '_forward', lambda *_: Task())
        monkeypatch.setattr(analyses, 'INPUTS', {'fc1': ('5',)})
        monkeypatch.setattr(analyses, 'kind_of_config', lambda _: SimpleNamespace(init_model=_init_model))
        monkeypatch.setattr(analyses, 'build_calibration_images', lambda *_: SimpleNamespace(samples=[_image()]))
        _, arrays = analyses.ANALYSES[kind](_cell())
    assert all(isinstance(array, np.ndarray) and np.isfinite(array).all() for array in arrays.values())


def _init_model(_config: object, _checkpoint: str, device: str) -> nn.Module:
    """Return a model that stands for a detector."""
    model, shape = make_plain()
    model.test_step = lambda _batch: [_detections(model(torch.randn(shape).to(device)))]
    return model.to(device)


def _detections(logits: torch.Tensor) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    return DetDataSample(pred_instances=InstanceData(scores=logits[:, 0]))


def _image() -> dict[str, Any]:
    from mmdet.structures import DetDataSample

    return {'inputs': torch.zeros(3, 15, 15), 'data_samples': DetDataSample(metainfo={'img_shape': (15, 15)})}


def _cell() -> Any:
    detector = SimpleNamespace(load_config=lambda: SimpleNamespace(model=None), checkpoint='')
    return SimpleNamespace(detector=detector, images=1, seed=0, a_bits=8, w_bits=4)


def test_peak_memory_is_that_of_the_devices_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the current GPU, nor of a GPU that the process uses for something else."""
    reset: list[torch.device] = []
    with LogicalDevice(devices=3):
        monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', reset.append)
        monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda device: 100 * (device.index + 1))
        spread = nn.Sequential(nn.Linear(2, 2).to('cuda:1'), nn.Linear(2, 2).to('cuda:2'), nn.Linear(2, 2))
        for model, expected in ((spread[0], 200), (spread, 500)):
            with PeakMemory(model) as memory:
                pass
            assert memory.peak_bytes == expected
        assert reset == [torch.device('cuda:1'), torch.device('cuda:1'), torch.device('cuda:2')]
        with PeakMemory(spread[2]) as memory:
            pass
        assert len(reset) == 3 and abs(memory.peak_bytes - process_peak_bytes()) < 2**24


def test_the_gpu_is_waited_for_before_a_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that needs a second for what it was sent, on a clock that stands still otherwise."""
    now, seconds = [0.0], {}
    monkeypatch.setattr('time.perf_counter', lambda: now[0])
    with LogicalDevice(devices=2):
        monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: now.__setitem__(0, now[0] + 1 + device.index))
        for model, expected in ((nn.Linear(2, 2), 0), (nn.Linear(2, 2).to('cuda:1'), 2)):
            stopwatch = Stopwatch(model, seconds)
            for _ in range(2):
                with stopwatch.measure(f'step {expected}'):
                    pass
    assert seconds == {'step 0': 0, 'step 2': 4}


def test_measured_forwards_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    pytest.importorskip('mmdet')
    path = Path(__file__).parent.parent.parent / 'tools/measure_cost.py'
    spec = importlib.util.spec_from_file_location('measure_cost', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    now = [0.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])
    with LogicalDevice():
        monkeypatch.setattr(torch.cuda, 'synchronize', lambda _device: now.__setitem__(0, now[0] + 3))
        assert tool.seconds_of(lambda _model, _x: None, nn.Linear(2, 2).to('cuda'), 1) == 3
