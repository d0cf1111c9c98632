"""How often the host waits for the GPU, and what it need not wait for: counted on the device that is not there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import erq_mm
from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.reconstruction import capture, trainer
from erq_mm.calibration.reconstruction.capture import capture_calls
from erq_mm.core import rounding
from erq_mm.core.grid_search import Lattice, progressive_search
from erq_mm.core.histogram import Histogram
from erq_mm.core.line_search import scale_factors
from erq_mm.core.output_search import search_operand
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.random_source import RandomSource
from erq_mm.core.rounding import RoundingOptions, refine_rounding
from erq_mm.core.spec import QuantSpec
from erq_mm.core.statistics import GramStats
from erq_mm.nn import QuantWindowMSA

from ..calibration.small_recipes import small
from .logical_device import LogicalDevice
from .logical_tensors import PINNED
from .models import make_swin


def waits_of(work: Callable[[], object], log: LogicalDevice) -> int:
    log.waits.clear()
    work()
    return log.waits.total()


@pytest.mark.parametrize('grid', ['symmetric', 'twin_gelu', 'twin_softmax'])
def test_a_line_search_waits_once_however_many_candidates_there_are(grid: str) -> None:
    with LogicalDevice() as log:
        x, other = torch.rand(5, 4, 6, device='cuda'), torch.rand(5, 6, 3, device='cuda')
        quantizer, histogram = build_quantizer(QuantSpec(4, grid=grid), device='cuda'), Histogram(device='cuda')
        quantizer.observe(x, histogram)
        quantizer.fit(histogram)
        for count in (5, 50):
            factors = scale_factors(count, 0.01, 1.2)
            assert waits_of(lambda f=factors: search_operand(quantizer, 0, (x, other), None, f), log) == 1


@pytest.mark.parametrize('grid', ['adaptive_log', 'adaptive_log_gelu', 'tan'])
def test_a_grid_search_waits_once_a_step(grid: str) -> None:
    with LogicalDevice() as log:
        x = torch.rand(100, device='cuda')
        quantizer = build_quantizer(QuantSpec(4, grid=grid), device='cuda')
        lattice = Lattice((1.0, 0.9, 0.8, 0.7), (0.5, 1.0, 1.5))

        def error(candidate: tuple[float, float]) -> torch.Tensor:
            quantizer.set_candidate(candidate)
            return (quantizer.fake_quantize(x) - x).square().sum()

        for steps in (1, 3):
            assert waits_of(lambda s=steps: progressive_search(lattice, error, 2, s), log) == steps


def test_an_iteration_of_training_waits_once_for_the_scales() -> None:
    """Forward, backward, dropping, optimizer and the transfer of the next call do not."""
    counts: list[int] = []
    with LogicalDevice() as log:
        model, shape = make_swin()
        task = erq_mm.ClassifierTask([torch.randn(shape).to('cuda')])
        optimize = trainer.UnitTrainer._optimize

        def counted(self: trainer.UnitTrainer, objective: object, advance: object) -> None:
            log.waits.clear()
            optimize(self, objective, advance)
            counts.append(log.waits.total())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer.UnitTrainer, '_optimize', counted)
            erq_mm.quantize_(model.to('cuda'), task, small('qdrop', iterations=3, layer_iterations=3), 4, 4)
    assert counts == [3] * len(counts) and len(counts) > 4


def test_sums_of_rows_are_accumulated_without_a_wait() -> None:
    with LogicalDevice() as log:
        stats, x = GramStats(torch.rand(3, 4).to('cuda')), torch.rand(10, 4).to('cuda')
        log.waits.clear()
        stats.add(x, x * 0.9)
        assert not log.waits
        assert stats.energy == pytest.approx(float(((x * 0.1) @ stats.weight.T).square().sum()), rel=1e-4)


def test_calls_of_a_block_are_kept_in_pinned_pages() -> None:
    with LogicalDevice():
        model, shape = make_swin()
        task = erq_mm.ClassifierTask([torch.randn(shape).to('cuda')])
        (call,) = capture_calls(model.to('cuda'), model, 'backbone.stages.0.blocks.1', task, range(1), quantized=True)
        for tensor in (call.x, call.x_q, call.output):
            assert not tensor.is_cuda and getattr(tensor.untyped_storage(), PINNED)
        back = call.on_device()
        assert back.x.device == back.output.device == call.device == torch.device('cuda:0')
        assert torch.equal(back.run(model.get_submodule('backbone.stages.0.blocks.1'), back.x), back.output)


def test_a_machine_that_cannot_pin_keeps_them_in_others(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def refuse(*args: object, pin_memory: bool = False, **options: object) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError('CUDA error: out of memory')
        return empty(*args, **options)

    with LogicalDevice():
        x = torch.rand(3).to('cuda')
        monkeypatch.setattr(torch, 'empty', refuse)
        kept = capture.in_main_memory(x)
        assert not kept.is_cuda and torch.equal(kept, x.cpu())


@pytest.mark.parametrize('images', [1, 2])
def test_shifted_attention_does_not_wait(images: int) -> None:
    with LogicalDevice() as log:
        model, shape = make_swin()
        x = torch.randn(images, *shape[1:]).to('cuda')
        plan = plan_quantization(model.to('cuda'), resolve_recipe('rtn'), 4, 4, 'linears', {})
        with torch.no_grad():
            wanted = model(x)
            swap_for_calibration(model, plan, lambda _model: None, 0, None)
            log.waits.clear()
            found = model(x)
        assert not log.waits and any(isinstance(m, QuantWindowMSA) for m in model.modules())
        torch.testing.assert_close(found.cpu(), wanted.cpu(), rtol=1e-5, atol=1e-5)


def test_rounding_is_refined_in_one_chunk(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes as many rows at a time as fit its cache; the codes are the same."""
    monkeypatch.setattr(rounding, 'ELEMENTS_PER_CHUNK', 32)
    chunks: list[int] = []
    flips = rounding._flips
    monkeypatch.setattr(rounding, '_flips', lambda *a: (chunks.append(len(a[0])), flips(*a))[1])
    weight, rows = torch.randn(20, 8).double() * 4, torch.randn(50, 8).double()
    codes = weight.round().clamp(-8, 7)
    problem = codes + 8, codes - weight, rows.T @ rows / 50
    expected = refine_rounding(*problem, 15, RoundingOptions())
    assert chunks == [4] * 5
    found = refine_rounding(*(t.to(device) for t in problem), 15, RoundingOptions())
    assert chunks[5:] == [20] and torch.equal(found.cpu(), expected)


def test_random_numbers_are_drawn_on_the_device_and_repeat(device: torch.device) -> None:
    user, states = torch.rand(3).to(device), (torch.get_rng_state(), torch.cuda.get_rng_state(device))
    sources = RandomSource(3, device), RandomSource(3, device), RandomSource(4, device)
    masks = [source.mask(user.expand(200, 3), 0.25).cpu() for source in sources]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    positions = [source.positions(10, 100).cpu() for source in sources]
    assert torch.equal(positions[0], positions[1]) and positions[0].unique().tolist() == list(range(10))
    assert sources[0].position(100) == RandomSource(3).position(100) == sources[1].position(100)
    for old, new in zip(states, (torch.get_rng_state(), torch.cuda.get_rng_state(device)), strict=True):
        assert torch.equal(old, new)
    large = RandomSource(0, device).mask(torch.zeros(1000, 1001, device=device), 0.5)
    assert large.device == device and float(large.float().mean()) == pytest.approx(0.5, abs=2e-3)


def test_finished_units_come_back_in_main_memory(device: torch.device, tmp_path: Path) -> None:
    """Those of a GPU can be taken up on a machine without one."""
    from erq_mm.calibration.resume import UnitStore

    store = UnitStore(tmp_path, 'fingerprint')
    store.save('unit', {'scale': torch.ones(3, device=device), 'after': 0.5})
    assert store.load('unit')['scale'].device.type == 'cpu'


def test_a_quantile_is_deterministic(device: torch.device, deterministic: None) -> None:
    x = torch.randn(3, 1000)
    histograms = Histogram(3, 256), Histogram(3, 256, device)
    for histogram in histograms:
        histogram.update(x.to(histogram.low.device))
    for fraction in (0.0, 0.01, 0.5, 0.999, 1.0):
        expected, found = (histogram.quantile(fraction) for histogram in histograms)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('size', [(10, 17), (14, 14)])
def test_window_attention_is_one_graph(size: tuple[int, int]) -> None:
    """Padded, or not: nothing in it depends on values, so that torch.compile needs no break."""
    model, shape = make_swin()
    erq_mm.quantize_(model, erq_mm.ClassifierTask([torch.randn(shape)]), 'repq', 8, 8)
    attention = model.get_submodule('backbone.stages.0.blocks.1.attn')
    assert attention.shift_size and attention.pad_value.any()
    compiled = torch.compile(attention, fullgraph=True, dynamic=False, backend='eager')
    x = torch.randn(2, size[0] * size[1], 16)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, size), attention(x, size), rtol=1e-5, atol=1e-5)
