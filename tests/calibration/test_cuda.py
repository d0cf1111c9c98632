"""Every recipe with the model and its images on a GPU."""

import pytest
import torch

import erq_mm
from erq_mm.core.quantizers import Quantizer

from .small_recipes import SMALL_RECIPES
from .swin_classifier import make_classifier

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


@pytest.mark.parametrize('name', SMALL_RECIPES)
def test_quantizes_on_the_gpu(name: str) -> None:
    torch.manual_seed(0)
    model, task = make_classifier()
    with torch.no_grad():
        wanted = torch.cat([model(batch) for batch in task.batches])
    model.cuda()
    task = erq_mm.ClassifierTask([batch.cuda() for batch in task.batches])
    erq_mm.quantize_(model, task, SMALL_RECIPES[name], 8, 8)
    assert all(q.is_active for q in model.modules() if isinstance(q, Quantizer))
    assert all(tensor.is_cuda for tensor in model.state_dict().values())
    with torch.no_grad():
        found = torch.cat([model(batch) for batch in task.batches]).cpu()
    assert (found - wanted).square().sum() < 0.05 * wanted.square().sum()
