"""The data sets of a loader, however they are nested, as sets of images to choose from."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import PurePosixPath
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from rich.progress import Progress

from ..calibration.progress import track


@dataclass
class ImageSet:
    """One data set: what can be chosen, and how to get it.

    Attributes:
        name: what tells its images from those of other sets, for example `instances_train.json`.
        is_only: whether the loader has no other set, so that plain ids say all.
        location: of its annotations (or images, if it has no annotation file), for messages.
        dataset: built, with the pipeline that its images shall go through.
        ids: image id of every record: that of the data set, else the path below its `data_root`, else the position.
        has_objects: of every record.
    """

    name: str
    is_only: bool
    location: str
    dataset: Any
    ids: list[Any]
    has_objects: list[bool]

    def label(self, index: int) -> int | str:
        """Return what the report calls an image: its id, behind the name of the set where there are several."""
        image_id = self.ids[index]
        if not self.is_only:
            return f'{self.name}:{image_id}'
        return int(image_id) if isinstance(image_id, Integral) else str(image_id)

    def image_path(self, index: int) -> Any:
        """Return where an image is, None if the data set does not say."""
        return self.dataset.get_data_info(index).get('img_path')

    def load(self, index: int) -> Any:
        """Return one image through the pipeline, as at test time: no other image takes its place."""
        self.dataset.test_mode = True
        return self.dataset[index]


def leaf_datasets(dataset: Mapping[str, Any]) -> list[Any]:
    """Return the configs of the data sets inside ConcatDataset, RepeatDataset, MultiImageMixDataset and the like.

    They are the config's own objects, in order; a data set that holds no other is returned itself.
    """
    inner: list[Any] = []
    for value in (dataset.get('dataset'), dataset.get('datasets')):
        inner += value if isinstance(value, (list, tuple)) else [value]
    nested = [leaf_datasets(item) for item in inner if isinstance(item, Mapping)]
    return [leaf for leaves in nested for leaf in leaves] or [dataset]


def annotation_file(dataset: Mapping[str, Any]) -> str | None:
    """Return the path of a data set's annotation file, None if its config names none."""
    file = dataset.get('ann_file')
    return os.path.join(dataset.get('data_root') or '', file) if isinstance(file, str) and file else None


def image_folder(dataset: Mapping[str, Any]) -> str:
    """Return the first folder of a data set's images, '' if its config names none."""
    prefix = dataset.get('data_prefix') or dataset.get('split') or {}  # mmpretrain takes one folder as a plain text
    folders = [str(folder) for folder in (prefix.values() if isinstance(prefix, Mapping) else [prefix]) if folder]
    return os.path.join(dataset.get('data_root') or '', *folders[:1])


def location_of(dataset: Mapping[str, Any]) -> str:
    """Return where a data set is: its annotation file, else its first folder of images, else its class."""
    return (
        annotation_file(dataset) or image_folder(dataset) or getattr(dataset['type'], '__name__', str(dataset['type']))
    )


def set_names(locations: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, with a number for a place that occurs twice."""
    parts = [PurePosixPath(location).parts for location in locations]
    names = ['/'.join(_shortest_end(path, set(parts) - {path})) for path in parts]
    seen = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [f'{name}#{nth}' if names.count(name) > 1 else name for name, nth in zip(names, seen, strict=True)]


def _shortest_end(path: tuple[str, ...], others: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    ends = [path[-length:] for length in range(1, len(path) + 1)]
    return next((end for end in ends if all(other[-len(end) :] != end for other in others)), path)


def open_image_set(dataset: Mapping[str, Any], name: str, is_only: bool, progress: Progress | None) -> ImageSet:
    """Build a data set and read the ids of its images (`name` and `is_only` as in `ImageSet`)."""
    built = _build(dataset)
    if hasattr(built, 'full_init'):
        built.full_init()
    ids, has_objects = [], []
    for index, record in enumerate(_records(built, name, progress)):
        ids.append(_image_id(record, built, index))
        has_objects.append(bool(record.get('instances')))
    return ImageSet(name, is_only, location_of(dataset), built, ids, has_objects)


def _build(dataset: Mapping[str, Any]) -> Any:
    """Build a data set that keeps its records as they are: bytes would have to be unpickled one by one to choose."""
    try:
        return DATASETS.build({**dataset, 'serialize_data': False})
    except TypeError:  # the class does not take the argument
        return DATASETS.build(dataset)


def _image_id(record: Mapping[str, Any], dataset: Any, index: int) -> Any:
    if 'img_id' in record or 'img_path' not in record:
        return record.get('img_id', index)
    root, path = getattr(dataset, 'data_root', None), str(record['img_path'])
    return os.path.relpath(path, root) if root and path.startswith(str(root)) else index


def _records(dataset: Any, name: str, progress: Progress | None) -> Iterable[dict[str, Any]]:
    """Return the records of all images, without copying them where the data set's own list can be read."""
    is_plain = isinstance(dataset, BaseDataset) and type(dataset).get_data_info is BaseDataset.get_data_info
    if is_plain and not dataset.serialize_data:
        return dataset.data_list
    return (dataset.get_data_info(index) for index in track(progress, range(len(dataset)), f'records of {name}'))
