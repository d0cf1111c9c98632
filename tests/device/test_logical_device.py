"""The proof of the device that is not there: planted faults are flagged, clean programs are silent."""

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .logical_device import LogicalDevice


def on_gpu(*shape: int) -> Tensor:
    return torch.randn(*shape).to('cuda')


class ForgottenConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.offset = nn.Linear(4, 4), torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.offset


class CpuMaskInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mask = torch.ones(x.shape)
        return x * 2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * ctx.mask


def forgotten_constant() -> None:
    ForgottenConstant().to('cuda')(on_gpu(2, 4))


def cpu_part_of_a_cat() -> None:
    torch.cat([on_gpu(2, 4), torch.zeros(2, 4)])


def cpu_generator_of_a_factory() -> None:
    torch.rand(3, device='cuda', generator=torch.Generator())


def cpu_generator_in_place() -> None:
    on_gpu(3).random_(generator=torch.Generator())


def gpu_generator_on_the_cpu() -> None:
    torch.zeros(3).random_(generator=torch.Generator('cuda'))


def numpy_method() -> None:
    on_gpu(3).numpy()


def numpy_array() -> None:
    np.asarray(on_gpu(3))


def gpu_index_of_a_cpu_tensor() -> None:
    torch.randn(5)[torch.tensor([1, 2], device='cuda')]


def cpu_index_select() -> None:
    on_gpu(5).index_select(0, torch.tensor([1, 2]))


def cpu_index_of_a_scatter() -> None:
    on_gpu(5).scatter_reduce_(0, torch.zeros(5, dtype=torch.long), on_gpu(5), 'amax')


def in_place_on_the_cpu() -> None:
    torch.zeros(3).add_(on_gpu(3))


def in_place_on_a_cpu_scalar() -> None:
    torch.zeros(()).add_(torch.ones((), device='cuda'))


def cpu_input() -> None:
    nn.Linear(4, 4).cuda()(torch.randn(2, 4))


def factory_without_device() -> None:
    on_gpu(4) * torch.arange(4)


def out_on_the_cpu() -> None:
    torch.sub(on_gpu(3), on_gpu(3), out=torch.zeros(3))


def cpu_quantiles() -> None:
    torch.quantile(on_gpu(9, 3), torch.tensor([0.1, 0.9]), dim=0)


def cpu_values_of_an_index_put() -> None:
    on_gpu(5, 2).index_put_((torch.tensor([0, 1]),), torch.zeros(2, 2))


def cpu_mask_in_backward() -> None:
    CpuMaskInBackward.apply(on_gpu(3).requires_grad_()).sum().backward()


def hook_with_a_cpu_tensor() -> None:
    layer = nn.Linear(3, 3).to('cuda')
    layer.register_forward_hook(lambda _m, _a, out: out + torch.ones(3))
    layer(on_gpu(2, 3))


def attribute_left_behind() -> None:
    layer = nn.Linear(3, 3)
    layer.factor = torch.ones(3)
    moved = copy.deepcopy(layer).to('cuda')
    moved.weight * moved.factor[:, None]


def gradient_elsewhere() -> None:
    nn.Parameter(on_gpu(3)).grad = torch.zeros(3)


def two_gpus() -> None:
    on_gpu(3) + torch.randn(3).to('cuda:1')


FAULTS = [
    forgotten_constant, cpu_part_of_a_cat, cpu_generator_of_a_factory, cpu_generator_in_place, gpu_generator_on_the_cpu,
    numpy_method, numpy_array, gpu_index_of_a_cpu_tensor, cpu_index_select, cpu_index_of_a_scatter, in_place_on_the_cpu,
    in_place_on_a_cpu_scalar, cpu_input, factory_without_device, out_on_the_cpu, cpu_quantiles,
    cpu_values_of_an_index_put, cpu_mask_in_backward, hook_with_a_cpu_tensor, attribute_left_behind, gradient_elsewhere,
    two_gpus,
]  # fmt: skip


@pytest.mark.parametrize('program', FAULTS, ids=lambda program: program.__name__)
def test_a_fault_is_flagged(program: Callable[[], None]) -> None:
    with LogicalDevice(devices=2), pytest.raises((RuntimeError, TypeError)):
        program()


@pytest.mark.parametrize('program', [lambda x: x.cumsum(0), lambda x: torch.histc(x), lambda x: x.median(0)])
def test_kernels_that_are_not_deterministic_are_flagged_where_that_is_asked_for(program, deterministic: None) -> None:
    with LogicalDevice(), pytest.raises(RuntimeError, match='does not have a deterministic implementation'):
        program(on_gpu(5))


def training() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 5), nn.Softmax(-1)
    nn.Sequential(*layers).to('cuda')(on_gpu(2, 3, 8, 8)).sum().backward()


def cpu_indices() -> None:
    x = on_gpu(5)
    assert x[torch.tensor([1, 2])].is_cuda and x[torch.tensor([True] * 5)].is_cuda


def cpu_scalars() -> None:
    x = on_gpu(5)
    assert torch.where(x > 0, torch.tensor(1.0), torch.tensor(0.0)).mul(torch.tensor(2.0)).is_cuda
    x[0] = torch.tensor(1.0)


def copies() -> None:
    on_gpu(5, 2)[:3] = torch.zeros(3, 2)
    kept = torch.zeros(3).copy_(on_gpu(3))
    assert not kept.is_cuda and not (kept + torch.zeros(3)).is_cuda
    norm = nn.BatchNorm1d(3).to('cuda')
    norm.running_mean.copy_(torch.zeros(3))
    norm(on_gpu(4, 3))


def files() -> None:
    file = io.BytesIO()
    torch.save(nn.Linear(3, 3).to('cuda').state_dict(), file)
    for location, is_cuda in ((None, True), ('cpu', False)):
        file.seek(0)
        state = torch.load(file, map_location=location, weights_only=True)
        assert state['weight'].is_cuda == is_cuda
    layer = nn.Linear(3, 3).to('cuda')
    layer.load_state_dict(state)
    assert layer(on_gpu(2, 3)).is_cuda


def optimizers() -> None:
    layer = nn.Linear(3, 3).to('cuda')
    for kind, options in (
        (torch.optim.Adam, {'fused': True}),
        (torch.optim.Adam, {'foreach': True}),
        (torch.optim.SGD, {}),
    ):
        optimizer = kind(layer.parameters(), lr=0.1, **options)
        for _ in range(2):
            layer(on_gpu(2, 3)).sum().backward()
            optimizer.step()


def modules() -> None:
    layer = copy.deepcopy(nn.Linear(3, 3).to('cuda'))
    assert layer.weight.device == torch.device('cuda', 0) and layer.weight.is_cuda and not layer.weight.is_cpu
    layer.cpu()(torch.randn(2, 3))
    nn.MultiheadAttention(4, 2, batch_first=True).to('cuda')(*[on_gpu(2, 3, 4)] * 3)
    table = nn.Embedding(5, 3).to('cuda')
    assert torch.autograd.grad(table(torch.tensor([1, 2], device='cuda')).sum(), table.weight)[0].is_cuda


def devices_of_results() -> None:
    x = on_gpu(4, 4)
    found = [x.new_zeros(3), torch.zeros_like(x), x.new_tensor([1.0]), torch.empty(2, device=x.device), x[1:], x.T]
    found += [x.double(), x.view(-1), torch.as_tensor(x), nn.Parameter(x), torch.linspace(0, 1, 3, device='cuda')]
    found += [
        (x > 0).nonzero(),
        x.sum(),
        torch.quantile(x, 0.5, dim=0),
        torch.histc(x),
        torch.cat([x, x.new_zeros(1, 4)]),
    ]
    found += [torch.linalg.cholesky_ex(x @ x.T + torch.eye(4, device=x.device))[0], *x.topk(2), torch.roll(x, 1, 0)]
    assert all(t.is_cuda for t in found)
    elsewhere = [torch.zeros_like(x, device='cpu'), x.new_zeros(2, device='cpu'), x.to(torch.zeros(2)), x.cpu()]
    assert not any(t.is_cuda for t in elsewhere)
    assert x.cpu().numpy().shape == (4, 4) and len(x.tolist()) == 4 and isinstance(float(x[0, 0]), float)


def functions() -> None:
    x = on_gpu(4, 4)
    F.interpolate(x[None, None], scale_factor=2, mode='bilinear') + torch.zeros(1, 1, 8, 8, device='cuda')
    F.one_hot(torch.tensor([0, 1], device='cuda'), 3) + torch.zeros(2, 3, device='cuda')
    F.cross_entropy(x, torch.arange(4, device='cuda'))
    F.unfold(on_gpu(1, 3, 8, 8), 3) + torch.einsum('ij,jk->ik', x, x).sum()


def generators() -> None:
    generator = torch.Generator('cuda').manual_seed(3)
    assert torch.rand(3, device='cuda', generator=generator).is_cuda
    assert on_gpu(3).random_(generator=generator).is_cuda
    with torch.random.fork_rng(devices=[0]):
        torch.cuda.manual_seed(1)
    torch.rand(3, generator=torch.Generator())


CLEAN = [
    training, cpu_indices, cpu_scalars, copies, files, optimizers, modules, devices_of_results, functions, generators,
]  # fmt: skip


@pytest.mark.parametrize('program', CLEAN, ids=lambda program: program.__name__)
def test_a_clean_program_is_silent(program: Callable[[], None]) -> None:
    with LogicalDevice():
        program()


def test_waits_are_counted() -> None:
    """Reading a number waits, and so does a transfer but to or from pinned pages and without blocking."""
    with LogicalDevice() as log:
        x = on_gpu(3)
        log.waits.clear()
        pinned = torch.empty(3, pin_memory=True).copy_(x, non_blocking=True)
        pinned.to('cuda', non_blocking=True) + x.exp()
        assert not log.waits
        for count, wait in enumerate((x.sum().item, x.tolist, x.cpu, lambda: bool((x > 0).any()), lambda: x[x > 0]), 1):
            wait()
            assert log.waits.total() == count
