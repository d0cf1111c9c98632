"""Exact pixels in calibration: the default of every recipe, what falls back and says so, and the published grid."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from torch import Tensor, nn

import erq_mm
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import RECIPES, Recipe, resolve_recipe
from erq_mm.calibration.report import Report
from erq_mm.core.pixel_levels import PixelLevels
from erq_mm.core.quantizers import PixelQuantizer, UniformQuantizer
from erq_mm.core.spec import QuantSpec
from erq_mm.export.checkpoint import load_into_, save_quantized

from .small_recipes import small

LEVELS = PixelLevels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
PROJECTION = 'backbone.patch_embed.projection'


class Classifier(nn.Module):
    """One block of mmdet's Swin, as small as can be; images (n, 3, H, W) -> logits (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {'embed_dims': 8, 'depths': (1,), 'num_heads': (1,), 'strides': (4,), 'out_indices': (0,)}
        self.backbone, self.head = SwinTransformer(**sizes, window_size=4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x)[-1].flatten(2).transpose(1, 2)).mean(1)


def images(low: int = 40, high: int = 90) -> list[Tensor]:
    """Return dark 8-bit images, normalised; their sides are no multiples of 4, so the patch embedding pads."""
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (LEVELS.mean, LEVELS.deviation))
    generator = torch.Generator().manual_seed(0)
    pixels = [torch.randint(low, high, (1, 3, 30, 26), generator=generator) for _ in range(2)]
    return [(image.float() - mean) / deviation for image in pixels]


@pytest.fixture(scope='module')
def float_model() -> nn.Module:
    torch.manual_seed(0)
    return Classifier().eval()


Quantize = Callable[..., tuple[nn.Module, Report]]


@pytest.fixture
def quantize(float_model: nn.Module) -> Quantize:
    def run(
        recipe: Any = 'rtn', batches: list[Tensor] | None = None, levels: PixelLevels | None = LEVELS, **options: Any
    ) -> tuple[nn.Module, Report]:
        model, task = copy.deepcopy(float_model), erq_mm.ClassifierTask(batches or images(), levels=levels)
        return model, erq_mm.quantize_(model, task, recipe, 4, 8, **options)

    return run


def image_quantizer(model: nn.Module) -> nn.Module:
    return model.get_submodule(PROJECTION).input_quantizer


def test_the_image_is_exact_also_where_calibration_saw_nothing_of_it(quantize: Quantize) -> None:
    model, report = quantize()
    quantizer, (bright, _) = image_quantizer(model), images(0, 256)
    assert isinstance(quantizer, PixelQuantizer) and quantizer.is_active
    assert torch.equal(quantizer(bright), bright)
    assert report.layers[0].granularity['input'] == 'pixels' and report.layers[0].a_bits == 8 and not report.notes
    published = image_quantizer(quantize({'type': 'rtn', 'image': 'published'})[0])
    assert (published(bright) - bright).abs().max() > 1  # a range of dark images clips


def test_the_published_grid_is_what_is_without_exact_pixels(quantize: Quantize) -> None:
    (published, report), (without, other) = quantize({'type': 'rtn', 'image': 'published'}), quantize(levels=None)
    assert type(image_quantizer(published)) is UniformQuantizer and not report.notes
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in (published, without)), strict=True))
    assert other.notes == [
        f'image without exact pixels: {PROJECTION} has one range for all channels: the calibration images come without '
        'the mean and deviation of their pixels'
    ]


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'batches': [x + 0.3 / 57 for x in images()]}, 'beside integer pixels'),
        ({'batches': [x.flip(1) for x in images()]}, 'beside integer pixels'),  # BGR with the numbers of RGB
        ({'batches': [torch.zeros(1, 3, 30, 26)]}, 'the first calibration image is zero throughout'),
        ({'overrides': {PROJECTION: {'a_bits': 6}}}, 'it has 6 bits, pixels 8'),
    ],
)
def test_what_is_no_pixel_falls_back_with_a_note(quantize: Quantize, changes: dict[str, Any], reason: str) -> None:
    model, report = quantize(**changes)
    assert type(image_quantizer(model)) is UniformQuantizer and report.layers[0].granularity['input'] == 'tensor'
    note = next(note for note in report.notes if note.startswith('image without exact pixels'))
    assert PROJECTION in note and reason in note


def test_a_layer_fed_by_another_one_falls_back(float_model: nn.Module) -> None:
    class Stem(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 1.01)

    model = Stem().eval()
    report = erq_mm.quantize_(model, erq_mm.ClassifierTask(images(), levels=LEVELS), 'rtn')
    assert 'beside integer pixels' in report.notes[0]


def test_a_layer_that_the_first_image_does_not_reach_falls_back(float_model: nn.Module) -> None:
    plan = plan_quantization(float_model, resolve_recipe('rtn'), 4, 4, 'linears', {}, images={})
    assert 'the first calibration image does not reach it' in plan.notes[0] and not plan.levels


def test_overrides_of_8_bits_and_no_proofs_change_nothing(quantize: Quantize) -> None:
    model, _ = quantize(overrides={PROJECTION: {'a_bits': 8}}, same_function=False, full_account=False)
    assert isinstance(image_quantizer(model), PixelQuantizer) and image_quantizer(model).is_active


def test_kernels_have_one_scale_for_the_image(quantize: Quantize) -> None:
    model, report = quantize({'type': 'rtn', 'deploy': True})
    assert type(image_quantizer(model)) is UniformQuantizer
    assert 'one range for the image' in report.notes[0] and len(report.notes) == 1


@pytest.mark.parametrize('name', sorted(RECIPES))
def test_every_recipe_has_the_choice(name: str) -> None:
    """And the published spec does not depend on it."""
    exact = resolve_recipe(small(name))
    published = resolve_recipe(small(name, image='published'))
    assert exact.has_exact_pixels('image') and not published.has_exact_pixels('image')
    assert not any(exact.has_exact_pixels(role) for role in ('post_norm', 'linear_input', 'conv_input'))
    assert exact.input_spec('image', 4) == published.input_spec('image', 4) and published.image == 'published'
    assert published.input_spec('image', 4).grid == 'uniform' and published.input_spec('image', 4).bits == 8


def test_an_unknown_choice_and_a_recipe_with_a_grid_of_its_own() -> None:
    with pytest.raises(
        ValueError, match=r"image of recipe 'erq' must be one of \('pixels', 'published'\), got 'exact'"
    ):
        resolve_recipe({'type': 'erq', 'image': 'exact'})
    steps = ({'type': 'fit_activations'}, {'type': 'fit_weights'})
    own = Recipe('own', steps, activations={'image': {'grid': 'symmetric'}})
    assert not own.has_exact_pixels('image') and own.input_spec('image', 4) == QuantSpec(8, grid='symmetric')


@pytest.mark.parametrize('name', ['ptq4vit', 'qdrop'])
def test_searches_and_training_leave_the_levels_alone(name: str, quantize: Quantize) -> None:
    """PTQ4ViT looks at rows of patches, QDrop trains scales."""
    options = {'candidates': 4, 'rounds': 1, 'rows': 16, 'pairs': 4} if name == 'ptq4vit' else {'iterations': 2}
    model, report = quantize(small(name, **options))
    quantizer, (bright, _) = image_quantizer(model), images(0, 256)
    assert float(quantizer.scale) == 1 and torch.equal(quantizer(bright), bright)
    assert report.layers[0].granularity['input'] == 'pixels'


def test_saved_and_loaded_bit_for_bit(quantize: Quantize, float_model: nn.Module, tmp_path: Path) -> None:
    model, report = quantize()
    save_quantized(model, tmp_path / 'model.safetensors', report)
    loaded = Classifier().eval()
    load_into_(loaded, tmp_path / 'model.safetensors')
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in (loaded, model)), strict=True))
    assert isinstance(image_quantizer(loaded), PixelQuantizer)
    with torch.no_grad():
        assert torch.equal(loaded(images()[0]), model(images()[0]))
