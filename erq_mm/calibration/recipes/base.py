"""What a recipe is: an ordered list of steps and a quantizer per role."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.spec import ACTIVATION_PERCENTILES, MOST_TABLE_BITS, MOST_WEIGHT_TABLE_BITS, WEIGHT_PERCENTILES, QuantSpec
from ...nn.structure import ROLES, Site
from .deployable import DEPLOY_NOTE, check_deployable, why_float_in_deployment, with_kernel_grid

IMAGE_BITS = 8  # the normalised image is quantized to 8 bits in all published protocols
IMAGE_GRIDS = ('pixels', 'published')


@dataclass(frozen=True)
class Recipe:
    """Steps in order, each `{'type': name, option: value}`, and what quantizers look like apart from their bits.

    Attributes:
        activations: role -> fields of `QuantSpec`; roles not named get a per-tensor uniform quantizer.
        at_8_bits: role -> fields that take their place where the quantizer has 8 bits. Grids with a table of levels
            have evenly spaced ones from 6 bits on.
        weight: fields of `QuantSpec` of all weights.
        weights: role of the input -> further fields of `QuantSpec`, for the weights behind inputs of that role; patch
            merging is not meant by `post_norm` here.
        qkv_weight: further fields of `QuantSpec` for the weights of qkv layers of window attention.
        images: the least number of calibration images the recipe works with.
        views: the least number of images, altered copies of them included, that the recipe calibrates on.
        note: what the report has to say about the recipe, if anything.
        deploy: use only grids that integer kernels have, see `deployable`. Every recipe takes it as an option.
        image: grid of the normalised image. `pixels`, its own 256 levels per channel, which reproduce it exactly
            (`core.quantizers.pixels`); or `published`, the grid that `activations` say, one range for all channels
            fitted to the calibration images. Every recipe takes it as an option. Kernels have one scale per input, so
            `deploy` has the published grid always; so has a recipe whose `activations` choose a grid for the image.
    """

    name: str
    steps: tuple[Mapping[str, Any], ...]
    activations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    at_8_bits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weight: Mapping[str, Any] = field(default_factory=lambda: {'percentiles': WEIGHT_PERCENTILES})
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    qkv_weight: Mapping[str, Any] = field(default_factory=dict)
    images: int = 1
    views: int = 1
    note: str = ''
    deploy: bool = False
    image: str = 'pixels'

    def __post_init__(self) -> None:
        unknown = sorted(set().union(self.activations, self.at_8_bits, self.weights) - set(ROLES))
        if unknown:
            raise ValueError(f'recipe {self.name!r}: unknown roles {unknown}; roles are {list(ROLES)}')
        if self.image not in IMAGE_GRIDS:
            raise ValueError(f'image of recipe {self.name!r} must be one of {IMAGE_GRIDS}, got {self.image!r}')
        if self.deploy:
            check_deployable(self.name, self.steps, self.activations, (self.weight, *self.weights.values()))

    def channelwise_roles(self) -> list[str]:
        """Return the roles whose ranges are fitted per channel, and have to be folded into one grid."""
        return [role for role, spec in self.activations.items() if QuantSpec(**{'bits': IMAGE_BITS} | spec).is_folded]

    def input_spec(self, role: str, a_bits: int) -> QuantSpec:
        """Return the spec of an activation quantizer; of images with the grid to be used if pixels are not exact."""
        bits = IMAGE_BITS if role == 'image' else a_bits
        fields = {'bits': bits, 'percentiles': ACTIVATION_PERCENTILES} | dict(self.activations.get(role, {}))
        spec = QuantSpec(**fields | (dict(self.at_8_bits.get(role, {})) if fields['bits'] == 8 else {}))
        return spec.with_even_levels() if bits > MOST_TABLE_BITS else spec

    def has_exact_pixels(self, role: str) -> bool:
        """Whether the recipe wants the levels of the pixels for inputs of a role."""
        is_chosen = 'grid' in self.activations.get(role, {})
        return role == 'image' and self.image == 'pixels' and not self.deploy and not is_chosen

    def weight_spec(self, site: Site, w_bits: int) -> QuantSpec:
        """Return the spec of a weight quantizer."""
        further = {} if site.is_merging else self.weights.get(site.roles[0], {})
        qkv = self.qkv_weight if site.is_qkv else {}
        spec = QuantSpec(**{'bits': w_bits, 'granularity': 'row'} | dict(self.weight) | dict(further) | dict(qkv))
        spec = spec.with_even_levels() if w_bits > MOST_WEIGHT_TABLE_BITS else spec
        return with_kernel_grid(spec) if self.deploy else spec

    def why_float(self, site: Site) -> str | None:
        """Return the reason why the recipe leaves a site in scope float, or None."""
        return why_float_in_deployment(site) if self.deploy else None

    def for_deployment(self) -> 'Recipe':
        """Return the recipe with grids that integer kernels have.

        Raises:
            ValueError: the method is one of other grids.
        """
        return replace(self, deploy=True, note='; '.join(filter(None, (self.note, DEPLOY_NOTE))))

    def with_image(self, image: str) -> 'Recipe':
        """Return the recipe with another grid of the normalised image; raises ValueError for an unknown one."""
        return replace(self, image=image)

    def with_images(self, images: int) -> 'Recipe':
        """Return the recipe asking for at least `images` calibration images."""
        return replace(self, images=images)
