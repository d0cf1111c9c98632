"""What the steps work on: the quantized sites of a model and what is known about each."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from ..core.histogram import Histogram
from ..core.quantizers import Quantizer
from ..core.ridge import RidgeSystem, damping
from ..core.spec import QuantSpec
from ..core.statistics import InputStats
from ..core.weight_grid import QuantizedWeight, fit_weight_grid, round_to_nearest
from ..nn.layers import QuantLayer
from ..nn.matmul import QuantMatMul
from ..nn.structure import Site
from .function_guard import FunctionGuard
from .precision import full_precision
from .progress import track
from .report import LayerReport
from .resume import UnitStore
from .task import CalibrationTask


@dataclass
class SiteState:
    """One site while it is calibrated.

    Attributes:
        input_specs: what the recipe asks for per operand; `channel` granularity exists only until reparameterization.
        stats: of the inputs, from `collect_statistics` until the layer is done.
        weight, bias: the float weight with all corrections so far; the layer itself changes when it is done.
        quantized: the weight on its grid, from `fit_weights` on.
    """

    site: Site
    module: QuantLayer | QuantMatMul
    input_specs: tuple[QuantSpec, ...]
    report: LayerReport
    histograms: list[Histogram] = field(default_factory=list)
    stats: InputStats | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    quantized: QuantizedWeight | None = None
    _system: tuple[float, RidgeSystem] | None = None

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def layer(self) -> QuantLayer:
        """The module of a site that has weights."""
        assert isinstance(self.module, QuantLayer), f'{self.name} is a product of activations'
        return self.module

    @property
    def has_weight(self) -> bool:
        return isinstance(self.module, QuantLayer)

    def quantizers(self) -> list[Quantizer]:
        """The quantizers of the operands, in order."""
        if isinstance(self.module, QuantLayer):
            return [self.module.input_quantizer]
        return [self.module.left_quantizer, self.module.right_quantizer]

    def activate(self) -> None:
        """Switch the fitted quantizers on."""
        for quantizer in self.quantizers():
            quantizer.is_active = quantizer.is_fitted

    def system(self, lam_mode: str, lam: float) -> RidgeSystem:
        """Return the damped Gram matrix; Aqer and Wqer share its factorization when they share lam."""
        assert self.stats is not None, f'{self.name} has no statistics'
        absolute = damping(lam_mode, lam, self.stats.mean_energy(), self.stats.count)
        if self._system is None or self._system[0] != absolute:
            self._system = None  # free the old factorization first
            self._system = (absolute, self.stats.system(absolute))
        return self._system[1]

    def record(self, step: str) -> None:
        """Put the output error after a step into the report."""
        if self.stats is None or self.stats.count == 0:
            return
        weight, bias = (self.quantized.weight, self.quantized.bias) if self.quantized else (self.weight, self.bias)
        layer = self.layer
        change = torch.zeros(len(weight), weight.shape[1] + 1, dtype=weight.dtype, device=weight.device)
        torch.sub(weight, layer.weight_matrix(), out=change[:, :-1])
        if bias is not None:
            change[:, -1] = bias - layer.bias
        self.report.output_mse[step] = self.stats.output_mse(change)

    def record_sqnr(self, step: str) -> None:
        """Put the signal-to-noise ratio of the output (without the bias) after a step into the report."""
        noise = self.report.output_mse.get(step)
        if noise is None:
            return
        weight = self.layer.weight_matrix()
        nothing = torch.cat([-weight, weight.new_zeros(len(weight), 1)], dim=1)  # W x - 0 x_q is the signal itself
        signal = self.stats.output_mse(nothing)
        if signal > 0 and noise > 0:
            self.report.sqnr_db = 10 * math.log10(signal / noise)

    def round_to_nearest_(self) -> None:
        """Install the weight rounded to nearest: nothing is known of the layer's input."""
        layer = self.layer
        weight, bias = layer.weight_matrix(), None if layer.bias is None else layer.bias.detach()
        layer.install_(round_to_nearest(weight, bias, fit_weight_grid(weight, layer.weight_spec)))

    def finish(self) -> None:
        """Install the quantized weight and free everything else."""
        if self.quantized is not None:
            self.layer.install_(self.quantized)
        self.stats = self.weight = self.bias = self.quantized = self._system = None


@dataclass
class Calibration:
    """A quantization under way.

    Attributes:
        task: the calibration images.
        sites: in module order.
        progress: display, or None.
        notes: lines for the user.
        units: what reconstruction did to each unit: name, objective before and after, kept, seconds.
        store: keeps finished units of long steps, or None.
        guard: proves that the model's function has not changed, or None.
        unproven: what has been done to the model since the guard last looked, or None.
        folded: LayerNorms whose outputs have changed, together with the layers behind them.
        calls: how often the first image calls every module, by name in the order of the first calls; empty if nobody
            has counted.
        visit: goes through the layers and applies what it is given to each, where their order and their statistics
            depend on the layers before; None is one after the other.
    """

    model: nn.Module
    task: CalibrationTask
    sites: list[SiteState]
    seed: int
    progress: Progress | None
    notes: list[str] = field(default_factory=list)
    units: list[dict[str, Any]] = field(default_factory=list)
    store: UnitStore | None = None
    guard: FunctionGuard | None = None
    unproven: str | None = 'swap of the layers'
    folded: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    visit: Callable[[Callable[[SiteState], None]], None] | None = None

    def layers(self) -> list[SiteState]:
        """The sites that have weights."""
        return [state for state in self.sites if state.has_weight]

    def for_layers(self, apply: Callable[[SiteState], None], description: str) -> None:
        """Apply a function to every layer; progress shows the description."""
        if self.visit is not None:
            self.visit(apply)
            return
        for state in track(self.progress, self.layers(), description):
            apply(state)

    def run(self, watching: AbstractContextManager | None = None) -> None:
        """Run the calibration forwards, without gradients, reduced precision or training behaviour.

        Args:
            watching: what observes them; it does not see what the guard may have to run besides.
        """
        self.model.eval()
        with torch.no_grad(), full_precision():
            with watching or nullcontext():
                for indices in track(self.progress, self.task.groups(), 'calibration images'):
                    with self._seen_by_guard() if 0 in indices else nullcontext():
                        self.task.forward_group(self.model, indices)
                self.task.check(self.model)
            self._prove()

    def prove(self) -> None:
        """Compare the model with the float model on the first image, if it has changed since that was last done."""
        if self.guard is None or self.unproven is None:
            return
        with torch.no_grad(), full_precision():
            with self._seen_by_guard():
                self.task.forward(self.model, 0)
            self._prove()

    def forget_proof(self) -> None:
        """Free what the guard remembers of the float model: nothing is left to be proven."""
        if self.guard is not None:
            self.guard.forget()
            self.guard = None

    def _seen_by_guard(self) -> AbstractContextManager:
        is_wanted = self.guard is not None and self.unproven is not None
        return self.guard.observe(self.model) if is_wanted else nullcontext()

    def _prove(self) -> None:
        if self.guard is None or self.unproven is None:
            return
        layers, stage = [state.name for state in self.layers()], self.unproven
        note = self.guard.verify(stage, self.model, self.folded, layers, lambda: self.task.forward(self.model, 0))
        self.notes += [note] if note else []
        self.unproven = None


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Allow gradients through a model in eval mode while the block runs; its own parameters get none.

    Checkpointed blocks would run twice and so draw other random numbers: checkpointing is off meanwhile.

    Raises:
        RuntimeError: a module is in training mode (dropout and BatchNorm statistics would change the model).
    """
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        raise RuntimeError(f'modules {training[:3]} are in training mode: calibration must not change the model')
    required = {p: p.requires_grad for p in model.parameters()}
    checkpointed = [m for m in model.modules() if getattr(m, 'with_cp', False)]
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        for module in checkpointed:
            module.with_cp = False
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
        for module in checkpointed:
            module.with_cp = True


@contextmanager
def watch_inputs(quantizers: list[Quantizer], see: list[Callable[[Tensor], None]]) -> Iterator[None]:
    """Call `see[i]` with every input of `quantizers[i]` while the block runs; always detaches."""
    handles = [
        quantizer.register_forward_pre_hook(lambda _module, args, act=act: act(args[0].detach()))
        for quantizer, act in zip(quantizers, see, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
