"""Quantize a model in place: swap the layers, run the steps of the recipe, switch the quantizers on."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from ..core.pixel_levels import PixelLevels
from ..core.spec import QuantSpec
from ..nn.swap import restored_on_error, swap_
from ..nn.usage import Usage, observe_usage
from .devices import check_devices
from .function_guard import FunctionGuard
from .memory import PeakMemory
from .pixels import pixels_watched
from .planning import Overrides, Plan, plan_quantization
from .recipes import Recipe, RecipeLike, resolve_recipe
from .report import LayerReport, Report
from .resume import UnitStore, fingerprint
from .state import Calibration, SiteState, full_precision
from .steps import needs, step_of, step_options
from .steps.weights import check_weight
from .stopwatch import Stopwatch
from .task import CalibrationTask, as_task, check_task


def quantize_(
    model: nn.Module,
    run_calibration: Callable[[nn.Module], Any],
    recipe: RecipeLike = 'erq',
    w_bits: int = 4,
    a_bits: int = 4,
    scope: str = 'linears',
    overrides: Overrides | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    work_dir: str | Path | None = None,
    same_function: bool = True,
    full_account: bool = True,
    on_plan: Callable[[Plan], Any] | None = None,
) -> Report:
    """Quantize `model` in place and return what was done.

    Args:
        model: a float module made of `nn.Linear`, `nn.Conv2d` and Swin attention; left in eval mode.
        run_calibration: called with the model, runs the calibration forwards; must do the same at every call. Recipes
            that weigh errors by gradients or compare predictions need a `task.CalibrationTask` that gives them.
        recipe: a name, `{'type': name, option: value}`, or a list of steps.
        w_bits, a_bits: 2 to 8.
        scope: `linears` or `all` (also convolutions).
        overrides: layer pattern -> `{'w_bits': 8, 'a_bits': 8}` or `'float'`, applied in order. A pattern is a name, a
            glob, or a regular expression after `re:`.
        seed: of the row sample of very wide layers.
        progress: a started rich display, or None.
        work_dir: where reconstructions keep the units they have finished, to go on from there after a kill; None
            keeps nothing.
        same_function: prove on the first calibration image that swapping and reparameterizing the layers has not
            changed the model's function; costs about one forward together with `full_account`.
        full_account: see on the first calibration image what the model really uses, leave float what is used otherwise
            than as a layer, and list it.
        on_plan: called with the plan once it is made, before the model is touched.

    Raises:
        ValueError: unknown recipe, step, option, scope or override key; bits outside 2..8; a pattern that matches
            nothing; no layer in scope; a model that is quantized already; a recipe that needs a loss, predictions or
            more images than `run_calibration` gives.
        FloatingPointError: NaN or infinity in a weight or an activation, naming the layer.
        RuntimeError: with all quantizers off the model is not the float model any more; names the first module that
            differs, before anything is fitted.

    Everything that can be checked is checked before the model is touched, and until the ranges of all activations are
    fitted a failure leaves the float model. If calibration fails after that the model is half quantized: load it again.
    """
    recipe, task = resolve_recipe(recipe), as_task(run_calibration)
    wanted = w_bits, a_bits, scope, overrides or {}
    image_layers = plan_quantization(model, recipe, *wanted).image_layers()  # raises what needs no forward
    check_task(task, model, needs(recipe), recipe.name, recipe.images)
    check_devices(model, task)
    if recipe.views > len(task):
        task = task.with_copies(-(-recipe.views // len(task)) - 1, seed)
    store = None
    if work_dir is not None:
        settings = dict(vars(recipe), bits=[w_bits, a_bits], scope=scope, overrides=overrides, seed=seed)
        store = UnitStore(Path(work_dir), fingerprint(model, settings | {'images': task.identity()}))
    report = Report(
        recipe=recipe.name, w_bits=w_bits, a_bits=a_bits, scope=scope, seed=seed, steps=[dict(s) for s in recipe.steps],
        notes=[recipe.note] if recipe.note else [],
    )  # fmt: skip
    model.eval()
    stopwatch = Stopwatch(model, report.seconds)
    with stopwatch.measure('total'), PeakMemory(model) as memory, torch.no_grad(), full_precision():
        guard = FunctionGuard() if same_function else None
        with stopwatch.measure('probe'):
            usage, images = _probe(model, task, guard, full_account, image_layers)
        plan = plan_quantization(model, recipe, *wanted, usage, images)
        calls = usage.calls if usage is not None else Counter()
        del usage
        if on_plan is not None:
            on_plan(plan)
        report.float_layers = [{'name': name, 'reason': reason} for name, reason in plan.float_layers]
        remaining = list(stages(recipe))
        with restored_on_error(model):
            calibration = swap_for_calibration(model, plan, task, seed, progress)
            calibration.store, calibration.guard, calibration.calls = store, guard, calls
            for state in calibration.layers():
                check_weight(state)
            while remaining and step_of(remaining[0][0]).keeps_weights:
                _run_stage(calibration, remaining.pop(0), stopwatch)
        for index, steps in enumerate(remaining):
            _run_stage(calibration, steps, stopwatch)
            if calibration.unproven is None and _keeps_function(remaining[index + 1 :]):
                calibration.forget_proof()
        for state in calibration.sites:
            state.activate()
    report.reconstruction, report.notes = calibration.units, [*report.notes, *plan.notes, *calibration.notes]
    report.checks = {'same_function': guard.findings if guard else 'off', 'full_account': full_account or 'off'}
    report.layers = [state.report for state in calibration.sites]
    report.peak_memory_bytes = memory.peak_bytes
    return report


def _probe(
    model: nn.Module,
    task: CalibrationTask,
    guard: FunctionGuard | None,
    full_account: bool,
    image_layers: Sequence[str],
) -> tuple[Usage | None, dict[str, PixelLevels | str]]:
    """Run the first image through the float model, if anything is to be learned from that."""
    levels = task.pixel_levels(model) if image_layers else None
    with ExitStack() as stack:
        images = stack.enter_context(pixels_watched(model, image_layers, levels))
        usage = stack.enter_context(observe_usage(model)) if full_account else None
        if guard is not None:
            stack.enter_context(guard.remember(model))
        if usage is not None or guard is not None or levels is not None:
            task.forward(model, 0)
    return usage, images


def swap_for_calibration(
    model: nn.Module,
    plan: Plan,
    task: Callable[[nn.Module], Any],
    seed: int,
    progress: Progress | None,
) -> Calibration:
    """Swap the planned layers, unfitted, and return the state the steps work on."""
    plan.drop_unknown_pixels()
    modules = swap_(model, plan.sites, plan.weight_specs, _module_specs(plan))
    for name, levels in plan.levels.items():
        modules[name].input_quantizer.set_levels(levels)
    states, task = [], as_task(task)
    for site in plan.sites:
        module, specs = modules[site.name], plan.input_specs[site.name]
        weight_spec = plan.weight_specs[site.name]
        has_weight = site.kind != 'matmul'
        report = LayerReport(
            name=site.name,
            kind=site.kind,
            role=','.join(site.roles),
            w_bits=weight_spec.bits if has_weight else None,
            a_bits=specs[0].bits,
            granularity={'weight': _weight_granularity(weight_spec)} if has_weight else {},
            parameters=module.weight.numel() if has_weight else 0,
        )
        report.granularity['input'] = ','.join('tensor' if s.grid == 'uniform' else s.grid for s in specs)
        states.append(SiteState(site, module, specs, report))
    return Calibration(model, task, states, seed, progress)


def _weight_granularity(spec: QuantSpec) -> str:
    return spec.granularity if spec.grid == 'uniform' else spec.grid


def _module_specs(plan: Plan) -> dict[str, tuple[QuantSpec, ...]]:
    """What the modules run with: one scale per tensor, also where the range is first fitted per channel."""
    return {
        name: tuple(replace(spec, granularity='tensor') for spec in specs) for name, specs in plan.input_specs.items()
    }


def stages(recipe: Recipe) -> Iterator[list[Mapping[str, Any]]]:
    """Yield model steps one by one and layer steps in runs."""
    for is_layer_step, steps in groupby(recipe.steps, key=lambda given: step_of(given).of_layers):
        if is_layer_step:
            yield list(steps)
        else:
            yield from ([step] for step in steps)


def _keeps_function(remaining: list[list[Mapping[str, Any]]]) -> bool:
    """Whether no stage that is left changes the float model's function or claims to keep it."""
    return not any(step_of(given).claims_function for steps in remaining for given in steps)


def _run_stage(calibration: Calibration, steps: list[Mapping[str, Any]], stopwatch: Stopwatch) -> None:
    first = step_of(steps[0])
    if not first.begins_with_pass:
        with stopwatch.measure('probe'):
            calibration.prove()
    if not first.of_layers:
        with stopwatch.measure(steps[0]['type']):
            first.run(calibration, **step_options(steps[0]))
        return

    def apply(state: SiteState) -> None:
        _begin(state)
        for step in steps:
            with stopwatch.measure(step['type']):
                step_of(step).run(state, **step_options(step))
        _finish(state, steps[-1]['type'])

    calibration.for_layers(apply, ' + '.join(s['type'] for s in steps))


def _begin(state: SiteState) -> None:
    state.weight = state.layer.weight_matrix().clone()
    state.bias = None if state.layer.bias is None else state.layer.bias.detach().clone()
    state.report.rows = state.stats.count if state.stats is not None else 0
    if state.report.rows:
        state.report.output_mse['activation'] = state.stats.energy / max(state.stats.count * len(state.weight), 1)


def _finish(state: SiteState, last: str) -> None:
    if last not in state.report.output_mse:
        state.record(last)
    state.record_sqnr(last)
    state.finish()
