"""Every recipe with the model and its images on a GPU: all of the model stays there, and the numbers are right."""

import pytest
import torch

import erq_mm
from erq_mm.core.quantizers import Quantizer, adaptive_log, tan

from ..calibration.small_recipes import RECONSTRUCTIONS, small
from .models import make_plain, make_swin

SEARCH = {'candidates': 4, 'rounds': 1, 'rows': 32, 'pairs': 8}
SHORT = {'ptq4vit': SEARCH, 'ptq4vit_channelwise': SEARCH, 'adalog': {'beam': 1}}
SHORT |= {'erq': {'iterations': 2}, 'erq_tpami': {'iterations': 2}}
TRAINING = {'iterations': 2, 'layer_iterations': 2}


def short(name: str) -> dict[str, object]:
    """Return a recipe with everything in it, and little of it."""
    return small(name, **TRAINING) if name in RECONSTRUCTIONS else small(name, **SHORT.get(name, {}))


@pytest.fixture
def small_lattices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tan, 'NUM_STEEPNESSES', 4)
    monkeypatch.setattr(adaptive_log, 'NUM_SCALES', 4)
    monkeypatch.setattr(adaptive_log, 'BASES', range(2, 138, 20))


@pytest.mark.usefixtures('deterministic', 'small_lattices')
@pytest.mark.parametrize('name', sorted(erq_mm.RECIPES))
@pytest.mark.parametrize('make', [make_swin, make_plain])
def test_quantizes_on_the_gpu(name: str, make: object, device: torch.device) -> None:
    model, shape = make()
    batches = [torch.randn(shape) for _ in range(1)]
    with torch.no_grad():
        wanted = torch.cat([model(batch) for batch in batches])
    model.to(device)
    task = erq_mm.ClassifierTask([batch.to(device) for batch in batches])
    erq_mm.quantize_(model, task, short(name), 8, 8, 'all')
    assert all(q.is_active for q in model.modules() if isinstance(q, Quantizer))
    assert {tensor.device for tensor in model.state_dict().values()} == {device}
    with torch.no_grad():
        found = torch.cat([model(batch) for batch in task.batches]).cpu()
    assert (found - wanted).square().sum() < 0.05 * wanted.square().sum()
