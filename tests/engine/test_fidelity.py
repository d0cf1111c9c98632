"""Fidelity of detectors: which outputs are compared, on whose proposals, on which images."""

import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

from erq_mm.core.unexplained import UnexplainedVariance
from erq_mm.engine.calibration_data import CalibrationImages
from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.fidelity import add_outputs, held_out_images, measure_fidelity, summary

from .small_sets import TEST, write_set
from .zoo import small_config

FPN = {f'fpn.{level}' for level in range(5)}
RPN = {'rpn_cls', 'rpn_reg'}


@pytest.fixture
def build(tiny_shapes: Path, mmdet_scope: None) -> Callable[..., tuple[nn.Module, CalibrationImages]]:
    """Return a function that builds a detector with random weights, and one or two images for it."""

    def make(name: str, count: int = 1) -> tuple[nn.Module, CalibrationImages]:
        config = small_config(name, tiny_shapes)
        model = MODELS.build(config.model).eval()
        model.init_weights()
        return model, held_out_images(config, {'split': 'train', 'image_ids': [1]}, count)

    return make


@torch.no_grad()
def disturb(model: nn.Module, part: str) -> nn.Module:
    """Return a copy with other weights in a part."""
    changed = copy.deepcopy(model)
    for name, parameter in changed.named_parameters():
        if name.startswith(part):
            parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
    return changed


@torch.no_grad()
def slow_units(model: nn.Module, other: nn.Module, images: CalibrationImages, modules: dict[str, str]) -> dict:
    """Return unit -> fraction with everything kept, by numpy: `modules` says where a part comes from."""
    task = DetectorTask(images.samples, with_masks=True)
    kept = [defaultdict(list), defaultdict(list)]
    for run, found in zip((model, other), kept, strict=True):
        for part, name in modules.items():
            run.get_submodule(name).register_forward_hook(lambda _m, _a, out, f=found, p=part: f[p].append(out))
        for index in range(len(task)):
            task.forward(run, index)
    units = {}
    for part in list(kept[0]):
        for place, name in enumerate(unit_names(part)):
            f, q = (flat([call[place] if len(unit_names(part)) > 1 else call for call in c[part]]) for c in kept)
            units[name] = ((q - f) ** 2).sum() / ((f - f.mean()) ** 2).sum()
    return units


def unit_names(part: str) -> list[str]:
    if part == 'fpn':
        return sorted(FPN)
    name, _, stage = part.partition('.')
    return [part] if name == 'mask' else [f'{name}_{kind}' + f'.{stage}' * bool(stage) for kind in ('cls', 'reg')]


def flat(outputs: list[Any]) -> np.ndarray:
    tensors = [tensor for output in outputs for tensor in (output if isinstance(output, (list, tuple)) else [output])]
    return np.concatenate([tensor.double().numpy().ravel() for tensor in tensors])


def test_everything_of_a_mask_rcnn_as_a_slow_reference_has_it(build: Callable) -> None:
    model, images = build('mask-rcnn', count=2)
    same = measure_fidelity(model, copy.deepcopy(model), images)
    assert set(same['units'].values()) == {0.0} and same['mean'] == 0
    other = disturb(model, '')
    found = measure_fidelity(model, other, images)
    modules = {'fpn': 'neck', 'rpn': 'rpn_head', 'box.0': 'roi_head.bbox_head', 'mask.0': 'roi_head.mask_head'}
    assert found['units'] == pytest.approx(slow_units(model, other, images, modules), rel=1e-6)
    assert set(found['units']) == FPN | RPN | {'box_cls.0', 'box_reg.0', 'mask.0'}
    parts = found['parts']
    assert parts['fpn'] == pytest.approx(np.mean([found['units'][level] for level in FPN]))
    assert (
        found['mean'] == pytest.approx(np.mean([parts[part] for part in parts if part != 'mask'])) and len(parts) == 6
    )
    assert found['image_ids'] == images.ids and len(set(images.ids)) == 2


def test_every_stage_of_a_cascade_sees_the_float_models_regions(build: Callable) -> None:
    """A changed proposal network changes its own outputs, and no other: not one region."""
    model, images = build('cascade-mask-rcnn')
    units = measure_fidelity(model, disturb(model, 'rpn_head'), images)['units']
    stages = {f'{part}.{stage}' for part in ('box_cls', 'box_reg', 'mask') for stage in range(3)}
    assert set(units) == FPN | RPN | stages
    assert all((units[name] > 0) == (name in RPN) for name in units)


@pytest.mark.parametrize(
    ('name', 'heads'), [('retinanet', {'box_cls', 'box_reg'}), ('double-head', RPN), ('deformable-detr', set())]
)
def test_heads_that_choose_their_places_are_left_out(name: str, heads: set[str], build: Callable) -> None:
    model, images = build(name)
    units = measure_fidelity(model, disturb(model, 'backbone'), images)['units']
    assert {unit for unit in units if not unit.startswith('fpn')} == heads
    assert sum(unit.startswith('fpn') for unit in units) >= 4 and min(units.values()) > 0


def test_outputs_that_do_not_pair_are_named() -> None:
    sums: dict[str, UnexplainedVariance] = defaultdict(UnexplainedVariance)
    with pytest.raises(ValueError, match=r'box_cls.0: an output is \(3, 8\) and that of the reference \(2, 8\)'):
        add_outputs(sums, {'box_cls.0': [torch.zeros(2, 8)]}, {'box_cls.0': [torch.zeros(3, 8)]})
    with pytest.raises(ValueError, match='rpn_reg has 0 outputs and 1 in the float model'):
        add_outputs(sums, {'rpn_reg': [torch.zeros(2)]}, {})


def test_a_mean_of_what_is_not_defined_is_none() -> None:
    sums = {name: UnexplainedVariance() for name in ('fpn.0', 'fpn.1', 'box_cls.0', 'mask.0')}
    for name, factor in (('fpn.0', 1.5), ('mask.0', 3.0)):
        sums[name].add(torch.tensor([-1.0, 1.0]), factor * torch.tensor([-1.0, 1.0]))
    assert summary(sums) == {
        'mean': 0.25, 'parts': {'fpn': 0.25, 'mask': 4.0}, 'units': {'fpn.0': 0.25, 'mask.0': 4.0},
    }  # fmt: skip
    sums['fpn.1'].add(torch.ones(2), torch.zeros(2))
    found = summary(sums)
    assert found['mean'] is found['parts']['fpn'] is found['units']['fpn.1'] is None and found['parts']['mask'] == 4.0


def config_on(train: dict, test: dict) -> Config:
    return Config({'train_dataloader': {'dataset': train}, 'test_dataloader': {'dataset': test | {'pipeline': TEST}}})


def test_held_out_images_are_the_same_for_all_and_none_that_calibrated(pair: tuple, mmdet_scope: None) -> None:
    train, test = pair
    config = config_on(train, test)  # ids overlap (4 and 4), files do not
    chosen = [held_out_images(config, {'split': 'train', 'image_ids': ids}, 2).ids for ids in ([4], [1, 2])]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 2 and set(chosen[0]) < {4, 5, 6}
    assert sorted(held_out_images(config, {'split': 'train', 'image_ids': [1]}, 16).ids) == [4, 5, 6]
    assert held_out_images(config, {'split': 'test', 'image_ids': [4, 6]}, 16).ids == [5]
    same = config_on(train | {'data_root': f'{train["data_root"]}/../{Path(train["data_root"]).name}'}, train)
    assert sorted(held_out_images(same, {'split': 'train', 'image_ids': [1, 3]}, 16).ids) == [2, 4]
    assert held_out_images(same, {'split': 'train', 'image_ids': [1, 2, 3, 4]}, 16) is None


def test_images_without_objects_are_not_chosen(tmp_path: Path, mmdet_scope: None) -> None:
    config = config_on(write_set(tmp_path, 'a', [1]), write_set(tmp_path, 'b', [4, 5, 6], empty=[5]))
    assert sorted(held_out_images(config, {'split': 'train', 'image_ids': [1]}, 16).ids) == [4, 6]
