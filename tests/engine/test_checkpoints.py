"""mmengine's training checkpoints load with torch's safety check on, and nothing else slips through."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.logging.history_buffer import HistoryBuffer

import erq_mm.engine  # noqa: F401


def test_training_checkpoint_loads(tmp_path: Path) -> None:
    """The parts of a real one: message hub with history buffers, numpy scalars, optimizer state."""
    hub = MessageHub.get_instance('a training run')
    hub.update_scalar('train/loss', np.float32(1.5), count=2)
    hub.update_scalar('train/time', 0.25)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    content = {'state_dict': {'w': torch.ones(2)}, 'message_hub': hub.state_dict(), 'optimizer': optimizer.state_dict()}
    torch.save(content, tmp_path / 'epoch_1.pth')
    loaded = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    assert isinstance(loaded['message_hub']['log_scalars']['train/loss'], HistoryBuffer)
    assert loaded['message_hub']['log_scalars']['train/loss'].current() == 1.5


class Attack:
    def __init__(self, owner: object, name: str) -> None:
        self.target = owner, name

    def __reduce__(self) -> tuple:
        return getattr, self.target


@pytest.mark.parametrize(('owner', 'name'), [(HistoryBuffer, '__init__'), (torch.Tensor, 'share_memory_')])
def test_other_attributes_are_refused(owner: object, name: str, tmp_path: Path) -> None:
    torch.save({'x': Attack(owner, name)}, tmp_path / 'bad.pth')
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        torch.load(tmp_path / 'bad.pth', weights_only=True)


def test_functions_are_still_refused(tmp_path: Path) -> None:
    torch.save({'x': os.system}, tmp_path / 'bad.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'bad.pth', weights_only=True)
