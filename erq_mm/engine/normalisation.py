"""With which mean and deviation a model of OpenMMLab normalises its images."""

from torch import Tensor, nn

from ..core.pixel_levels import PixelLevels, pixel_levels


def levels_of(model: nn.Module) -> PixelLevels | None:
    """Return mean and deviation of a model's data preprocessor, in the order in which the model gets the channels.

    Mean 0 and deviation 1 where the preprocessor leaves images as they are; None without a preprocessor, or where its
    numbers are none of a normalisation. A pipeline may have changed the images before: calibration looks at one.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    while isinstance(inner := getattr(preprocessor, 'data_preprocessor', None), nn.Module):  # one for several branches
        preprocessor = inner
    if preprocessor is None:
        return None
    mean, deviation = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    if mean is None or deviation is None or not getattr(preprocessor, '_enable_normalize', True):
        return PixelLevels((0.0,), (1.0,))
    if not isinstance(mean, Tensor) or not isinstance(deviation, Tensor) or not bool((deviation > 0).all()):
        return None
    return pixel_levels(mean, deviation)
