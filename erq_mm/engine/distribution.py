"""One rank calibrates, all ranks get the same tensors."""

from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.dist import broadcast, broadcast_object_list, get_rank, get_world_size
from torch import nn

from ..calibration.pipeline import swap_for_calibration
from ..calibration.planning import Plan
from ..calibration.report import Report
from ..calibration.task import FunctionTask
from ..core.quantizers import Quantizer
from .waiting import others_wait

Result = TypeVar('Result')


def on_rank_zero(work: Callable[[], Result]) -> Result:
    """Run `work` on rank 0, for as long as it takes, and return its result (picklable) on every rank.

    Raises:
        RuntimeError: on the other ranks, if rank 0 is lost or the work failed there; rank 0 raises the error itself.
    """
    if get_world_size() == 1:
        return work()
    outcome: list[object] = [None, None]
    failure: BaseException | None = None
    with others_wait():
        if get_rank() == 0:
            try:
                outcome = [work(), None]
            except BaseException as error:  # whatever ends rank 0, the others must hear of it
                failure, outcome = error, [None, f'{type(error).__name__}: {error}']
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RuntimeError(f'calibration failed on rank 0: {outcome[1]}')
    return outcome[0]


def quantize_on_all_ranks(model: nn.Module, calibrate: Callable[[], tuple[Report, Plan]]) -> Report:
    """Run `calibrate` on rank 0 and give every rank its result.

    Args:
        model: the same float model on every rank.
        calibrate: quantizes `model` in place; returns the report, and the plan to build the same modules elsewhere.

    Raises:
        RuntimeError: as `on_rank_zero`.
    """
    report, plan = on_rank_zero(calibrate)
    if get_rank() != 0:
        swap_for_calibration(model, plan, FunctionTask(lambda _model: None), seed=0, progress=None)
        model.eval()
    if get_world_size() > 1:
        _broadcast_state(model)
    return report


@torch.no_grad()
def _broadcast_state(model: nn.Module) -> None:
    for tensor in model.state_dict().values():  # the same order everywhere; the tensors are the model's own
        broadcast(tensor)
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.refresh()
            module.is_active = module.is_fitted
