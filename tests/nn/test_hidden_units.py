"""Hidden units are told from what a forward reads: found where they can change places, and nowhere else."""

import pickle

import pytest
import torch
from torch import nn

from erq_mm.nn.usage import observe_usage

pytestmark = pytest.mark.filterwarnings('error')


class Net(nn.Module):
    """Two layers, and a third one for what a test does besides; `way` is the forward."""

    def __init__(self, way, activation=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = activation or nn.ReLU()
        self.way = way

    def forward(self, x):
        return self.way(self, x)


def found(net, x=None):
    with torch.no_grad(), observe_usage(net) as usage:
        net(torch.randn(5, 6) if x is None else x)
    return {name: units.consumers for name, units in usage.hidden_units.items()}


def chain(net, x):
    return net.third(net.act(net.second(net.act(net.first(x)))))


@pytest.mark.parametrize('activation', [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.LeakyReLU(0.2)])
@pytest.mark.parametrize('shape', [(5, 6), (2, 3, 6), (0, 6), (2, 3, 4, 6)])
def test_a_chain_has_hidden_units(activation, shape):
    assert found(Net(chain, activation), torch.randn(shape)) == {'first': ('second',), 'second': ('third',)}


def test_all_layers_behind_are_named():
    def way(net, x):
        h = net.act(net.first(x))
        return net.second(h), net.third(h)

    assert found(Net(way)) == {'first': ('second', 'third')}


def test_found_units_can_change_places_and_the_activation_is_the_one_that_ran():
    net, x = Net(chain, nn.GELU(approximate='tanh')), torch.randn(7, 6)
    with torch.no_grad(), observe_usage(net) as usage:
        wanted = net(x)
    units, order = usage.hidden_units['second'], torch.randperm(8)
    z = torch.randn(4, 8)
    kept = z.clone()
    torch.testing.assert_close(units.activation(z), nn.functional.gelu(z, approximate='tanh'), rtol=0, atol=0)
    assert torch.equal(z, kept)
    assert pickle.loads(pickle.dumps(units)) == units  # sent to other ranks with the layers' names
    with torch.no_grad():
        net.second.weight.copy_(net.second.weight[order])
        net.second.bias.copy_(net.second.bias[order])
        net.third.weight.copy_(net.third.weight[:, order])
        torch.testing.assert_close(net(x), wanted)


def added(net, x):
    h = net.act(net.first(x))
    return net.third(net.second(h) + h)


def read_before(net, x):
    z = net.first(x)
    return net.third(net.act(z)) + z.mean()


def returned(net, x):
    h = net.act(net.first(x))
    return {'out': [net.third(h)], 'hidden': h}


def cut(net, x):
    return net.third(net.act(net.first(x))[:, torch.arange(8)])


def turned(net, x):
    return net.third(net.act(net.first(x)).T)


def halves(net, x):
    return net.third(net.act(net.first(x)).view(-1, 4).repeat(1, 2))


def bare(net, x):
    return net.third(net.first(x))


def twice_active(net, x):
    return net.third(net.act(net.act(net.first(x))))


def softmaxed(net, x):
    return net.third(net.first(x).softmax(-1))


def by_weight(net, x):
    return nn.functional.linear(net.act(net.first(x)), net.third.weight)


def called_twice(net, x):
    return net.third(net.act(net.first(x))), net.third(net.act(net.first(x + 1)))


def reader_called_twice(net, x):
    h = net.act(net.first(x))
    return net.third(h), net.third(net.second(torch.ones(2, 8)))


@pytest.mark.parametrize(
    'way',
    [added, read_before, returned, cut, halves, bare, twice_active, softmaxed, by_weight, called_twice,
     reader_called_twice],
)  # fmt: skip
def test_whatever_else_touches_them_ends_it(way):
    assert 'first' not in found(Net(way))


def test_turned_units_are_no_units():
    assert 'first' not in found(Net(turned), torch.randn(8, 6))
