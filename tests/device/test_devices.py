"""Models and calibration data on different devices: named before the model is touched; spread models work."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.devices import check_devices, devices_of
from erq_mm.calibration.task import as_task

from ..calibration.small_recipes import RECONSTRUCTIONS, small
from .logical_device import LogicalDevice
from .models import make_plain, make_swin


def plain(device: torch.device) -> tuple[nn.Module, Tensor]:
    model, shape = make_plain()
    return model.to(device), torch.randn(shape)


@pytest.mark.parametrize('as_calibration', [lambda x: erq_mm.ClassifierTask([x]), lambda x: lambda model: model(x)])
def test_data_elsewhere_are_named_before_the_model_is_touched(as_calibration: Callable, device: torch.device) -> None:
    model, x = plain(device)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'^0 is on cuda:0, its calibration input on cpu: move the calibration data'):
        check_devices(model, as_task(as_calibration(x)))
    model.cpu()
    with pytest.raises(ValueError, match=r'^0 is on cpu, its calibration input on cuda:0'):
        check_devices(model, as_task(as_calibration(x.to(device))))
    assert all(torch.equal(before[name].cpu(), tensor) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_data_in_the_right_place_pass_and_nothing_behind_the_first_layer_runs(device: torch.device) -> None:
    model, x = plain(device)
    model[1].register_forward_hook(lambda *_: pytest.fail('the second layer ran'))
    check_devices(model, erq_mm.ClassifierTask([x.to(device)]))


def test_the_check_changes_neither_statistics_nor_random_numbers(device: torch.device) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).to(device)
    before, states = copy.deepcopy(model.state_dict()), (torch.get_rng_state(), torch.cuda.get_rng_state(device))
    check_devices(model, as_task(lambda m: m(torch.randn(4, 3).to(device).uniform_())))
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for old, new in zip(states, (torch.get_rng_state(), torch.cuda.get_rng_state(device)), strict=True):
        assert torch.equal(old, new)


def test_a_layer_that_brings_its_input_over_is_fine(device: torch.device) -> None:
    class Moving(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to(self.weight.device))

    check_devices(nn.Sequential(Moving(3, 2)).to(device), as_task(lambda model: model(torch.randn(4, 3))))


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match='no such file'):
        check_devices(nn.Sequential(nn.Linear(3, 2)), as_task(_failing))
    check_devices(nn.Sequential(nn.ReLU()), as_task(lambda model: model(torch.randn(2))))  # no layer at all


def _failing(model: nn.Module) -> None:
    raise RuntimeError('no such file')


def test_a_device_that_cannot_calibrate_is_named() -> None:
    with pytest.raises(ValueError, match='the model is on meta, which holds no values: load the weights first'):
        check_devices(nn.Sequential(nn.Linear(3, 2, device='meta')), as_task(lambda model: pytest.fail('it ran')))


class Spread(nn.Module):
    """A model whose head is on another device than its body, and comes first among its modules."""

    def __init__(self, body: nn.Module, head: nn.Module, device: str) -> None:
        super().__init__()
        self.head, self.body, self.device = head.to(device), body, device

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).to(self.device))


@pytest.mark.parametrize(
    ('name', 'elsewhere'),
    [('erq', 'cpu'), ('ptq4vit', 'cuda:1'), ('pd_quant', 'cuda:1'), ('aphq', 'cuda:1'), ('adaround', 'cpu')],
)
def test_a_model_that_is_spread_over_devices(name: str, elsewhere: str) -> None:
    options = {'iterations': 1, 'layer_iterations': 1} if name in RECONSTRUCTIONS else {}
    options |= {'candidates': 2, 'rounds': 1} if name == 'ptq4vit' else {}
    with LogicalDevice(devices=2):
        swin, shape = make_swin()
        model = Spread(swin.to('cuda:0'), nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 4)), elsewhere)
        places = {name: tensor.device for name, tensor in model.state_dict().items()}
        assert devices_of(model) == [torch.device(elsewhere), torch.device('cuda:0')]
        task = erq_mm.ClassifierTask([torch.randn(shape).to('cuda:0')])
        check_devices(model, task)
        erq_mm.quantize_(model, task, small(name, **options), 8, 8)
        state = model.state_dict()
        assert all(state[name].device == place for name, place in places.items())
        heads = {tensor.device for name, tensor in state.items() if name.startswith('head')}
        assert heads == {torch.device(elsewhere)}
