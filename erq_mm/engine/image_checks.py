"""Warnings about images that a model should not be calibrated on."""

from typing import Any

from torch import Tensor

SMALL_SIDE = 16  # pixels: four patches of a Swin
SAME_LEVEL = 2  # largest difference of 8-bit levels that counts as one colour: compression leaves that much


def degenerate_note(image_id: int | str, sample: dict[str, Any]) -> str | None:
    """Return a warning if an image, as packed for the model, is tiny or of one colour; None if it is neither."""
    image = sample['inputs']
    if not isinstance(image, Tensor) or image.ndim != 3:
        return None  # not one image
    height, width = getattr(sample['data_samples'], 'ori_shape', image.shape[-2:])[:2]
    if min(height, width, *image.shape[-2:]) >= SMALL_SIDE and not _is_flat(image):
        return None
    kind = 'tiny' if min(height, width) < SMALL_SIDE else 'of one colour' if _is_flat(image) else 'tiny for the model'
    return (
        f'calibration image {image_id} is {kind} ({width}x{height} pixels): ranges fitted on it suit no other image; '
        'choose others with default_hooks.quantization.calibration.seed or image_ids'
    )


def _is_flat(image: Tensor) -> bool:
    """Return whether an image, (channels, height, width), has one colour inside of its padding, if it has any.

    A corner pixel tells the padding's colour.
    """
    tolerance = 0 if image.is_floating_point() else SAME_LEVEL
    levels = image.float()
    is_content = ((levels - levels[:, -1:, -1:]).abs() > tolerance).any(0)
    rows, columns = is_content.any(1).nonzero().flatten(), is_content.any(0).nonzero().flatten()
    if not len(rows):
        return True
    inside = levels[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].flatten(1)
    return bool((inside.amax(1) - inside.amin(1) <= tolerance).all())
