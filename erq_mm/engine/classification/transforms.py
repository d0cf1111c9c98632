"""Images as timm sees them: read by Pillow, as RGB, resized and cropped by timm's own transforms."""

import io
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.fileio import get
from mmengine.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform

from .data_config import data_config


@TRANSFORMS.register_module()
class LoadRGBImage(LoadImageFromFile):
    """Read an image as timm does: by Pillow, converted to RGB whatever the file has (grey, RGBA, palette, CMYK).

    It takes `backend_args` of mmcv's `LoadImageFromFile`. Adds img, (height, width, 3) uint8 in the order R, G, B;
    img_shape and ori_shape.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Read `results['img_path']`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no image, or a damaged one.
        """
        path = results['img_path']
        content = get(path, backend_args=self.backend_args)
        try:
            image = Image.open(io.BytesIO(content)).convert('RGB')
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise
            raise ValueError(f'{path} ({len(content)} bytes) cannot be read as an image: {error}') from error
        results['img'] = np.asarray(image)
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class TimmPreprocess(BaseTransform):
    """Resize and crop as timm's evaluation of a model does, by its own transforms; values stay 8-bit integers.

    Normalisation is the model's, see `data_config.normalisation`.

    Args:
        model_name: of timm, whose data config says size, crop share and interpolation.
        changes: values in the place of timm's: `img_size`, `crop_pct`, `interpolation`, ...

    Raises:
        ValueError: an unknown model or value.
    """

    def __init__(self, model_name: str, **changes: Any) -> None:
        self.model_name, self.config = model_name, data_config(model_name, **changes)
        self.steps = create_transform(**self.config, is_training=False, normalize=False)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change img, (height, width, 3) uint8 RGB."""
        prepared = self.steps(Image.fromarray(results['img']))  # (3, height, width) uint8
        results['img'] = prepared.permute(1, 2, 0).numpy()
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(model_name={self.model_name!r}, {self.config})'
