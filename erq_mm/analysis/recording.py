"""Record what reaches a layer while a model runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

ROWS_PER_CALL = 4096


@contextmanager
def _recording(modules: Mapping[str, nn.Module], rows_per_call: int) -> Iterator[dict[str, list[Tensor]]]:
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            seen[name].append(rows[:: max(1, -(-len(rows) // rows_per_call))].clone())

        return see

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def record_inputs(
    model: nn.Module, names: list[str], run: Callable[[nn.Module], Any], rows_per_call: int = ROWS_PER_CALL
) -> dict[str, Tensor]:
    """Return layer -> its inputs as rows, (rows, in), evenly thinned to at most `rows_per_call` a call.

    Args:
        names: of linear layers, float or quantized (then what reaches the input quantizer).
        run: called with the model, runs the forwards.

    Raises:
        ValueError: a layer that the forwards did not reach.
    """
    modules = {name: model.get_submodule(name) for name in names}
    with _recording(modules, rows_per_call) as seen, torch.no_grad():
        run(model)
    silent = [name for name, rows in seen.items() if not rows]
    if silent:
        raise ValueError(f'the forwards did not reach {silent}; choose other layers or other images')
    return {name: torch.cat(rows) for name, rows in seen.items()}
