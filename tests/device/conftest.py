"""The fixture `device`: a GPU that is not there, and a real one where there is."""

from collections.abc import Iterator

import pytest
import torch

from .logical_device import LogicalDevice

needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')]


@pytest.fixture(params=['logical', pytest.param('cuda', marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device to work on; on the logical one every fault of placement is an error."""
    if request.param == 'cuda':
        yield torch.device('cuda', 0)
        return
    with LogicalDevice():
        yield torch.device('cuda', 0)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only deterministic kernels, as under mmengine's `randomness=dict(deterministic=True)`."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
