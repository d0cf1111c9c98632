"""What is put into a layer or a quantizer to train it is gone afterwards, also if the training fails."""

import pytest
import torch
from torch import nn

from erq_mm.calibration.training import learned, parametrized
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.spec import QuantSpec


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@pytest.mark.parametrize('bias', [True, False])
def test_a_parametrized_layer_is_as_before(bias: bool) -> None:
    layer, x = nn.Linear(3, 2, bias=bias), torch.randn(4, 3)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    plain = layer(x)
    with pytest.raises(KeyError), parametrized(layer, Doubled()):
        assert torch.allclose(layer(x) - plain, x @ state['weight'].T, atol=1e-6)
        raise KeyError
    assert list(layer.state_dict()) == list(state)  # the bias behind the weight
    assert all(torch.equal(layer.state_dict()[key], state[key]) for key in state)
    assert type(layer) is nn.Linear


@pytest.mark.parametrize('learn_scale', [True, False])
def test_a_quantizer_learns_only_inside(learn_scale: bool) -> None:
    quantizer = build_quantizer(QuantSpec(4))
    quantizer.set_parameters(0.1, 8.0)
    with learned(quantizer, learn_scale) as learner:
        assert quantizer.learner is learner and learner.scale.requires_grad is learn_scale
    assert quantizer.learner is None
    octaves = build_quantizer(QuantSpec(4, grid='log_normalised'))
    octaves.set_parameters(0.5)
    with learned(octaves, learn_scale) as learner:
        assert not learner.scale.requires_grad
