"""Images in folders, one per class: mmpretrain's data sets, which say here what is wrong with a folder."""

import os
from typing import Any

from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset, ImageNet


class _CheckedFolders:
    """Looks at the folders of a data set before mmpretrain does, which stops at an assertion or only warns."""

    def _find_samples(self) -> Any:
        folder = self.img_prefix
        where = f'{folder} (data_root={self.data_root!r}, data_prefix={self.data_prefix})'
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'the folder of images {where} does not exist')
        if not self.with_label:
            return self._some(super()._find_samples, where)
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != '.')
        if not classes:
            raise ValueError(f'the folder of images {where} has no class folders; every class is a folder of images')
        if self.CLASSES is not None and len(self.CLASSES) != len(classes):
            raise ValueError(f'{where} has {len(classes)} class folders, and the data set {len(self.CLASSES)} classes')
        empty = [name for name in classes if not self._has_image(os.path.join(folder, name))]
        if empty:
            raise ValueError(
                f'{len(empty)} of {len(classes)} class folders of {where} have no images: {", ".join(empty[:5])}'
                f'{" ..." if len(empty) > 5 else ""}; images end in {", ".join(sorted(self.extensions))}'
            )
        return super()._find_samples()

    def _some(self, find: Any, where: str) -> Any:
        if not self._has_image(self.img_prefix):
            raise ValueError(f'{where} has no images; images end in {", ".join(sorted(self.extensions))}')
        return find()

    def _has_image(self, folder: str) -> bool:
        return any(self.is_valid_file(name) for _, _, names in os.walk(folder) for name in names)


@DATASETS.register_module()
class ImageFolder(_CheckedFolders, CustomDataset):
    """A folder of class folders (sorted names are classes 0, 1, ...), or with `with_label=False` of any images.

    Args: those of mmpretrain's `CustomDataset`: data_root, data_prefix, ann_file, with_label, pipeline, ...

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no class folders, class folders without images, or no images at all.
    """


@DATASETS.register_module()
class ImageNetFolder(_CheckedFolders, ImageNet):
    """ImageNet-1k: `val` with 1,000 class folders, or flat with `meta/val.txt` where that exists.

    Args: those of mmpretrain's `ImageNet`: data_root, split, pipeline, ...

    Raises: as `ImageFolder`; ValueError if there are not 1,000 class folders.
    """
