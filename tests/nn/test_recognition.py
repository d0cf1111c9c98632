"""Modules are what their type or their function says, not what they look like."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

import erq_mm
from erq_mm.nn import QuantConv2d, QuantLinear
from erq_mm.nn.recognition import as_plain_layer, is_exactly, type_name


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised per output, as in weight standardisation."""

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = (f(self.weight.flatten(1), dim=1)[:, None, None, None] for f in (torch.mean, torch.std))
        return self._conv_forward(x, (self.weight - mean) / (deviation + 1e-5), self.bias)


class Normed(nn.Linear):
    """Normalises its weight and its input: a cosine classifier."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(20 * F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1), self.bias)


class Dynamic(nn.Linear):
    """Its weight depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * x.abs().mean(), self.bias)


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(x, self.weight)


class Squashed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class NeedsTwo(nn.Linear):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class Renamed(nn.Linear):
    """Changes nothing."""


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized() -> nn.Linear:
    layer = nn.Linear(6, 4)
    parametrize.register_parametrization(layer, 'weight', Doubled())
    return layer


def patched() -> nn.Linear:
    layer = nn.Linear(6, 4)
    layer.forward = lambda x: F.linear(x, 3 * layer.weight, layer.bias)
    return layer


def hooked() -> nn.Linear:
    layer = nn.Linear(6, 4)
    layer.register_forward_hook(lambda _module, _args, output: output + 1)
    return layer


PLAIN = [
    lambda: nn.Linear(6, 4),
    lambda: nn.Linear(6, 4, bias=False),
    lambda: Renamed(6, 4),
    lambda: Standardised(6, 4, 3, stride=2, padding=1, dilation=2),
    parametrized,
    patched,
    lambda: weight_norm(nn.Linear(6, 4)),
    lambda: parametrizations.weight_norm(nn.Conv2d(6, 4, 3)),
    lambda: parametrizations.spectral_norm(nn.Linear(6, 4)),
]


@pytest.mark.parametrize('make', PLAIN)
def test_the_weight_found_is_what_the_layer_multiplies_by(make) -> None:
    layer = make()
    layer.train(False)
    x = torch.randn(3, 6, 9, 11) if isinstance(layer, nn.Conv2d) else torch.randn(3, 6)
    plain = as_plain_layer(layer)
    with torch.no_grad():
        wanted = layer(x)
    if isinstance(layer, nn.Conv2d):
        found = F.conv2d(x, plain.weight, plain.bias, layer.stride, layer.padding, layer.dilation)
    else:
        found = F.linear(x, plain.weight, plain.bias)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize('make', PLAIN)
def test_a_plain_function_is_quantized_and_kept(make) -> None:
    """At 8 bits the swapped layer is close to the float one, whatever makes its weight."""
    layer = make()
    layer.train(False)
    x = torch.randn(40, 6, 9, 11) if isinstance(layer, nn.Conv2d) else torch.randn(400, 6)
    model = nn.Sequential(layer)
    with torch.no_grad():
        wanted = model(x)
    report = erq_mm.quantize_(model, lambda m: m(x), 'rtn', 8, 8, scope='all')
    assert isinstance(model[0], (QuantLinear, QuantConv2d)) and report.float_layers == []
    with torch.no_grad():
        assert (model(x) - wanted).norm() < 0.02 * wanted.norm()


NOT_PLAIN = [
    (Normed(6, 4), 'more than a product of its input with a weight'),
    (Dynamic(6, 4), 'its weight depends on the input'),
    (Twice(6, 4), 'not one product with its weight but 2'),
    (Squashed(6, 4), 'more than a product'),
    (NeedsTwo(6, 4), 'cannot be checked .TypeError'),
    (hooked(), 'more than a product'),
]


@pytest.mark.parametrize(('layer', 'reason'), NOT_PLAIN)
def test_what_is_no_plain_layer_stays_float_and_says_why(layer: nn.Linear, reason: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.special, self.plain = layer, nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.plain(x)
            return self.special(x, x) if isinstance(layer, NeedsTwo) else self.special(x)

    model, x = Model(), torch.randn(50, 6)
    report = erq_mm.quantize_(model, lambda m: m(x), 'erq')
    assert model.special is layer
    (left,) = report.float_layers
    assert left['name'] == 'special'
    assert left['reason'].startswith(f'linear layer of type {type(layer).__name__}')
    assert re.search(reason, left['reason'])


def test_a_parameter_that_is_used_as_it_is_stays_the_parameter() -> None:
    layer = Renamed(6, 4)
    layer.forward = lambda x: F.linear(x, layer.weight, layer.bias)
    plain = as_plain_layer(layer)
    assert plain.weight is layer.weight and plain.bias is layer.bias


def test_checking_a_layer_leaves_it_alone() -> None:
    layer = Standardised(6, 4, 3)
    layer.train(True)
    random_state, before = torch.get_rng_state(), copy.deepcopy(layer.state_dict())
    as_plain_layer(layer)
    assert layer.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_hooks_that_watch_a_layer_stay_and_can_be_removed() -> None:
    layer, seen = nn.Linear(6, 4), []
    handle = layer.register_forward_hook(lambda _module, _args, output: seen.append(output.shape))
    model, x = nn.Sequential(layer), torch.randn(5, 6)
    erq_mm.quantize_(model, lambda m: m(x), 'rtn')
    seen.clear()
    model(x)
    assert seen == [(5, 4)]
    handle.remove()
    model(x)
    assert seen == [(5, 4)]


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def inner(self, x: Tensor) -> Tensor:
        return 2 * x


class SameForward(Base):
    def __init__(self) -> None:
        super().__init__()
        self.option = 3

    def something_else(self) -> None:
        """Not used by the forward."""


class OtherInner(Base):
    def inner(self, x: Tensor) -> Tensor:
        return 3 * x


def test_a_subclass_is_its_base_if_it_inherits_every_method() -> None:
    name = type_name(Base)
    assert is_exactly(Base(), name) and is_exactly(SameForward(), name)
    assert not is_exactly(OtherInner(), name)
    assert is_exactly(OtherInner(), (name, type_name(OtherInner))) and not is_exactly(OtherInner(), (name, 'a.B'))
    assert not is_exactly(nn.Linear(2, 2), name)
    assert not is_exactly(None, name)


def test_an_instance_with_a_forward_or_hooks_of_its_own_is_not_its_class() -> None:
    changed, watched = Base(), Base()
    changed.forward = lambda x: x
    watched.register_forward_pre_hook(lambda _module, args: None)
    assert not is_exactly(changed, type_name(Base))
    assert not is_exactly(watched, type_name(Base))
