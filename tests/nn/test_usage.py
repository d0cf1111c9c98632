"""What a forward really uses, seen kernel by kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erq_mm.nn.usage import observe_usage, parameter_owners


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.called, self.borrowed, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm, self.table = nn.LayerNorm(4), nn.Parameter(torch.randn(3, 4))
        self.looked_at = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.called(x)) + self.table.sum(0)
        x = x.to(self.looked_at.weight.dtype) + self.looked_at.weight.new_zeros(4)
        return F.linear(x, self.borrowed.weight) @ x.T


@torch.no_grad()
def test_users_calls_and_products() -> None:
    model, x = Net(), torch.randn(5, 4)
    with observe_usage(model) as usage:
        model(x)
        model(x)
    assert (usage.calls['called'], usage.calls['unused'], usage.calls['']) == (2, 0, 2)
    assert usage.foreign_users('called') == [] and usage.foreign_users('borrowed') == ['']
    assert not usage.users.get('looked_at.weight') and not usage.users.get('unused.weight')
    assert set(usage.users['table']) == {''}
    assert usage.consumers['norm'] == {''}
    assert sum(usage.products[''].values()) == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_a_forward_that_raises_leaves_no_hooks_and_no_wrong_names() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError('no')

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fails, self.layer = Fails(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.fails(x)
            except ValueError:
                return self.layer(x)

    model = Tries()
    with observe_usage(model) as usage:
        model(torch.randn(2, 4))
    assert usage.foreign_users('layer') == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_memory_that_is_shared_has_several_owners() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    flat = torch.randn(2, 3, 3)
    model[2].weight.data = flat[0]
    assert parameter_owners(model) == {'0.weight': ['1.weight'], '1.weight': ['0.weight']}
    model[2].bias.data = flat[0, 1]
    assert parameter_owners(model)['2.bias'] == ['2.weight']
    model[2].bias.data = flat[1, 1]  # beside it in the same memory
    assert '2.bias' not in parameter_owners(model)
