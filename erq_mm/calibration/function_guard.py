"""Proof on the model at hand that swapping and reparameterizing its layers has not changed its function.

While all quantizers are off, every module has to give on the first calibration image what it gave in the float model.
Outputs are compared on a sample of their values, so that a forward's worth of activations need not be kept.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.tensors import nested_tensors
from ..nn.usage import not_observed

OUTPUT_VALUES, INPUT_VALUES = 512, 128  # sampled of the outputs and of the inputs of a call
BLOCK_VALUES = 1 << 19  # samples are kept in blocks of 2 MB, which the allocator gives back whole
CALLS_PER_MODULE = 16  # of a module that is called more often, the first ones
TOLERANCE = 1e-4
PERTURBATION = 1e-6  # relative, at the first layer: about the rounding error of float32
GOLDEN = 0.6180339887498949

CallKey = tuple[str, int]


@dataclass
class _Recording:
    """The first calls of every module, in the order in which they ended, and how many there were of each."""

    calls: dict[CallKey, '_Call'] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    room: Tensor = field(default_factory=lambda: torch.empty(0))

    @torch.no_grad()
    def sample(self, values: Any, count: int) -> Tensor:
        """Return up to `count` values of every tensor in a nested structure, from irregular places, in float32."""
        with not_observed():
            parts = [_sample_tensor(t, count) for t in nested_tensors(values) if t.numel() and not t.is_sparse]
            return self._keep(torch.cat(parts)) if parts else torch.empty(0)

    def _keep(self, values: Tensor) -> Tensor:
        """Return a copy among the others: thousands of small tensors would leave holes behind when they are freed."""
        if len(self.room) < len(values):
            self.room = torch.empty(max(BLOCK_VALUES, len(values)))
        kept, self.room = self.room[: len(values)], self.room[len(values) :]
        return kept.copy_(values)


@dataclass
class _Call:
    """Samples of what went into and came out of one call of a module; an empty tensor where there was no tensor."""

    inputs: Tensor
    outputs: Tensor


class FunctionGuard:
    """Remembers the float model's outputs on one image, and compares later ones with them.

    Args:
        tolerance: of the root mean square difference of an output, relative to that of the output itself.

    Attributes:
        findings: stage -> largest difference that was found, and where; for the report.
    """

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        self.tolerance = tolerance
        self.findings: dict[str, dict[str, Any]] = {}
        self._reference, self._found = _Recording(), _Recording()

    @contextmanager
    def remember(self, model: nn.Module) -> Iterator[None]:
        """Take what the float model does while the block runs for the truth."""
        with _recorded_calls(model) as recording:
            yield
        self._reference = recording

    def forget(self) -> None:
        """Free everything but the findings, when nothing is left to be compared."""
        self._reference, self._found = _Recording(), _Recording()
        _places.cache_clear()

    @contextmanager
    def observe(self, model: nn.Module) -> Iterator[None]:
        """Collect what `verify` compares while the block runs."""
        with _recorded_calls(model) as recording:
            yield
        self._found = recording

    def verify(
        self, stage: str, model: nn.Module, folded: Collection[str], layers: Collection[str], run: Callable[[], None]
    ) -> str | None:
        """Compare the calls seen last with those of the float model.

        Args:
            stage: what has been done to the model, for messages and findings.
            folded: modules whose outputs are meant to change: LayerNorms, together with the layers behind them.
            layers: modules that were replaced, which have to be called as often as those they replace.
            run: runs the same image again, for the case that a difference may come of a decision of the model (the best
                of many, a threshold) rather than of a fault.

        Returns:
            A line for the report if there are differences that rounding errors cause as well, else None.

        Raises:
            RuntimeError: naming the first module that differs, and by how much.
        """
        self._check_counts(stage, layers)
        differences = {
            key: _difference(self._found.calls[key].outputs, call.outputs)
            for key, call in self._reference.calls.items()
            if key[0] not in folded and self._is_called_alike(key[0])
        }
        suspects = self._suspects(differences)
        if suspects:
            self._raise_unless_unstable(stage, model, suspects, differences, run)
        self._record(stage, differences)
        self._found = _Recording()
        return self._note(stage, suspects[0], differences[suspects[0]]) if suspects else None

    def _check_counts(self, stage: str, layers: Collection[str]) -> None:
        before, after = self._reference.counts, self._found.counts
        for name in layers:
            if after[name] < before[name]:
                raise RuntimeError(
                    f'after the {stage}, {name} ran {after[name]} times where the float model ran it {before[name]} '
                    'times: the model holds the float layer in a place that is no submodule (a list, a dict, a '
                    f"closure). Keep it in an nn.ModuleList, or leave it float with overrides={{'{name}': 'float'}}"
                )

    def _is_called_alike(self, name: str) -> bool:
        """Whether the calls of a module correspond.

        An attention that works through its windows in parts calls its layers more often than the float one did; it is
        compared as a whole.
        """
        return self._reference.counts[name] == self._found.counts[name]

    def _suspects(self, differences: dict[CallKey, float]) -> list[CallKey]:
        """Return the first call that differs, and the first one that does so although its inputs do not."""
        differing = [key for key, value in differences.items() if not value <= self.tolerance]
        guilty = [key for key in differing if self._has_equal_inputs(key)]
        return list(dict.fromkeys(differing[:1] + guilty[:1]))

    def _has_equal_inputs(self, key: CallKey) -> bool:
        return _difference(self._found.calls[key].inputs, self._reference.calls[key].inputs) <= self.tolerance

    def _raise_unless_unstable(
        self,
        stage: str,
        model: nn.Module,
        suspects: list[CallKey],
        differences: dict[CallKey, float],
        run: Callable[[], None],
    ) -> None:
        """Raise unless rounding errors at the first layer move the suspects' outputs about as far."""
        with _perturbed(model), _recorded_calls(model) as again:
            run()
        for name, index in suspects:
            difference, key = differences[name, index], (name, index)
            moved = torch.inf
            if key in again.calls:
                moved = _difference(again.calls[key].outputs, self._found.calls[key].outputs)
            if not moved >= 0.1 * min(difference, 1.0):
                kind = type(model.get_submodule(name)).__name__
                raise RuntimeError(
                    f'after the {stage}, with all quantizers off, the model is not the float model any more: on the '
                    f'first calibration image the output of {name or "the model itself"} ({kind}) differs by '
                    f'{difference:.3g} of its own size (tolerance {self.tolerance:g}). Nothing has been fitted. Load '
                    f"the model again and leave this module float with overrides={{'{name}*': 'float'}}, or switch the "
                    'check off with same_function=False; a report of its type is welcome'
                )

    def _note(self, stage: str, suspect: CallKey, difference: float) -> str:
        return (
            f'same function, after the {stage}: the output of {suspect[0] or "the model"} differs from the float '
            f"model's by {difference:.2g}, as it does when its first layer is changed by {PERTURBATION:g}: decisions "
            'that rounding errors turn over; behind them nothing could be compared'
        )

    def _record(self, stage: str, differences: dict[CallKey, float]) -> None:
        within = {key: value for key, value in differences.items() if value <= self.tolerance}
        worst = max(within, key=within.__getitem__, default=None)
        self.findings[stage] = {
            'compared_calls': len(differences),
            'largest_difference': within[worst] if worst else 0.0,
            'module': worst[0] if worst else None,
            'tolerance': self.tolerance,
        }


@contextmanager
def _recorded_calls(model: nn.Module) -> Iterator[_Recording]:
    """Sample the inputs and outputs of every module while the block runs."""
    recording = _Recording()
    pending: dict[str, list[Tensor]] = {}

    def observer(name: str) -> tuple[Callable, Callable]:
        def enter(_module: nn.Module, args: tuple, keywords: dict) -> None:
            pending.setdefault(name, []).append(recording.sample([args, keywords], INPUT_VALUES))

        def leave(_module: nn.Module, _args: tuple, output: Any) -> None:
            inputs, index = pending[name].pop(), recording.counts[name]
            recording.counts[name] += 1
            if index < CALLS_PER_MODULE:
                recording.calls[name, index] = _Call(inputs, recording.sample(output, OUTPUT_VALUES))

        return enter, leave

    handles = []
    for name, module in model.named_modules():
        enter, leave = observer(name)
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _perturbed(model: nn.Module) -> Iterator[None]:
    """Add noise of the size of rounding errors to the first output of a layer with weights while the block runs."""
    handles: list[Any] = []

    def add_noise(_module: nn.Module, _args: tuple, output: Any) -> Tensor | None:
        if not handles or not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        _remove(handles)
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        return output + PERTURBATION * output.square().mean().sqrt() * noise

    for module in model.modules():
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(add_noise))
    try:
        yield
    finally:
        _remove(handles)


def _remove(handles: list[Any]) -> None:
    while handles:
        handles.pop().remove()


def _sample_tensor(tensor: Tensor, count: int) -> Tensor:
    if tensor.numel() <= count:
        return tensor.detach().reshape(-1).float().cpu()
    return tensor.detach().take(_places(tensor.numel(), count).to(tensor.device)).float().cpu()


@lru_cache(maxsize=512)
def _places(size: int, count: int) -> Tensor:
    """Return where to look in a tensor of `size` values; the sizes of a forward recur."""
    places = torch.arange(1, count + 1, dtype=torch.float64) * GOLDEN % 1 * size
    return places.long().clamp_(max=size - 1)


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the root mean square difference relative to that of `wanted`; infinite if they cannot be compared."""
    if found.shape != wanted.shape:
        return torch.inf
    if not wanted.numel():
        return 0.0
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return torch.inf
    wanted, found = wanted[finite].double(), found[finite].double()
    size = max(float(wanted.norm()), 1e-6 * max(len(wanted), 1) ** 0.5)
    return float((found - wanted).norm()) / size
