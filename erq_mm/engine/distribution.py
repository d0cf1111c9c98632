"""One rank calibrates, all ranks get the same tensors."""

from collections.abc import Callable

import torch
from mmengine.dist import broadcast, broadcast_object_list, get_rank, get_world_size
from torch import nn

from ..calibration.pipeline import plan_quantization, swap_for_calibration
from ..calibration.recipes import Recipe
from ..calibration.report import Report
from ..calibration.task import FunctionTask
from ..core.quantizers import Quantizer


def quantize_on_all_ranks(
    model: nn.Module,
    calibrate: Callable[[], Report],
    recipe: Recipe,
    w_bits: int,
    a_bits: int,
    scope: str,
    overrides: dict,
) -> Report:
    """Run `calibrate` on rank 0 and give every rank its result.

    Args:
        model: the same float model on every rank.
        calibrate: quantizes `model` in place and returns the report; called on rank 0 only.
        recipe, w_bits, a_bits, scope, overrides: what `calibrate` was made with, to build the same modules elsewhere.

    Raises:
        RuntimeError: on the other ranks, if calibration failed on rank 0 (which raises the error itself).
    """
    if get_world_size() == 1:
        return calibrate()
    outcome: list[object] = [None, None]
    failure: BaseException | None = None
    if get_rank() == 0:
        try:
            outcome = [calibrate(), None]
        except (Exception, KeyboardInterrupt) as error:
            failure, outcome = error, [None, f'{type(error).__name__}: {error}']
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RuntimeError(f'calibration failed on rank 0: {outcome[1]}')
    if get_rank() != 0:
        plan = plan_quantization(model, recipe, w_bits, a_bits, scope, overrides)
        swap_for_calibration(model, plan, FunctionTask(lambda _model: None), seed=0, progress=None)
        model.eval()
    _broadcast_state(model)
    return outcome[0]


@torch.no_grad()
def _broadcast_state(model: nn.Module) -> None:
    for tensor in model.state_dict().values():  # the same order everywhere; the tensors are the model's own
        broadcast(tensor)
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.refresh()
            module.is_active = module.is_fitted
