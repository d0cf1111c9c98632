"""The image sets of one split of a config: its data sets as they are, with the pipeline of the evaluation."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from rich.progress import Progress

from .image_sets import ImageSet, annotation_file, leaf_datasets, location_of, open_image_set, set_names
from .pipelines import calibration_pipeline, read_images_like

SPLITS = ('train', 'val', 'test')
SPLIT_OPTION = 'default_hooks.quantization.calibration.split'


def open_split(config: Config, split: str, evaluated: str, progress: Progress | None) -> list[ImageSet]:
    """Build the data sets of a split, each once however often the config repeats it.

    Args:
        evaluated: `test` or `val`: whose pipeline the images go through, if the config has both.

    Raises:
        ValueError: a loader is missing, a data set cannot be built, or there is no image in all of them.
        FileNotFoundError: annotations cannot be read.
    """
    leaves = leaf_datasets(_dataset_of(config, split))
    datasets: list[dict[str, Any]] = []
    for leaf, pipeline in zip(leaves, _pipelines(config, split, evaluated, leaves), strict=True):
        dataset = {**copy.deepcopy(leaf), 'pipeline': calibration_pipeline(copy.deepcopy(pipeline))}
        if dataset not in datasets:
            datasets.append(dataset)
    sets = []
    for dataset, name in zip(datasets, set_names([location_of(d) for d in datasets]), strict=True):
        try:
            sets.append(open_image_set(dataset, name, len(leaves) == 1, progress))
        except Exception as error:  # whatever the constructor of a user's data set raises
            raise _cannot_open(error, dataset, split, other_splits(config, split)) from error
    if not any(s.ids for s in sets):
        raise ValueError(
            f'calibration images come from the {split} split, and {", ".join(s.location for s in sets)} has none '
            f'(after filter_cfg and indices of {split}_dataloader.dataset); change that{other_splits(config, split)}'
        )
    return sets


def other_splits(config: Config, split: str) -> str:
    """Return how to take the images of another split that the config has, as the end of a message."""
    others = [s for s in ('val', 'test', 'train') if s != split and config.get(f'{s}_dataloader') is not None]
    return f', or take others with {SPLIT_OPTION}={others[0]}' if others else ''


def input_error(error: Exception, message: str) -> Exception:
    """Return an error of the kind of `error` (a missing file, or anything else about the input) with both messages."""
    kind = FileNotFoundError if isinstance(error, OSError) else ValueError
    return kind(f'{message} ({type(error).__name__}: {error})')


def _cannot_open(error: Exception, dataset: Mapping[str, Any], split: str, others: str) -> Exception:
    what = 'data set' if annotation_file(dataset) is None or not isinstance(error, OSError) else 'annotation file'
    fault = 'does not exist or cannot be read' if isinstance(error, OSError) else 'cannot be built'
    return input_error(
        error,
        f'calibration images come from the {split} split, whose {what} {location_of(dataset)} {fault}; set '
        f'{split}_dataloader.dataset right (data_root, ann_file, data_prefix){others}',
    )


def _dataset_of(config: Config, split: str) -> Mapping[str, Any]:
    """Return the data set config of a loader."""
    loader = config.get(f'{split}_dataloader')
    if loader is None:
        present = [s for s in SPLITS if config.get(f'{s}_dataloader') is not None]
        way_out = 'nor any other: a Runner built in Python needs them in its cfg too, as Runner.from_cfg gives them'
        if present:
            way_out = f'set {SPLIT_OPTION} to one of {present}'
        raise ValueError(f'the config has no {split}_dataloader to calibrate on; {way_out}')
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    if not isinstance(dataset, Mapping):
        found = type(loader if dataset is None else dataset).__name__
        raise ValueError(
            f'{split}_dataloader.dataset must be a config, got {found}: calibration builds the data set anew, with the '
            'pipeline of the evaluation'
        )
    return dataset


def _pipelines(config: Config, split: str, evaluated: str, leaves: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the evaluation pipeline of every leaf of a split: its own if this is the split that is evaluated."""
    others = [s for s in ('test', 'val') if s != evaluated]
    source = next((s for s in (evaluated, *others) if config.get(f'{s}_dataloader') is not None), None)
    if source is None:
        raise ValueError('the config has neither test_dataloader nor val_dataloader; calibration needs their pipeline')
    own = leaves if source == split else leaf_datasets(_dataset_of(config, source))
    if any(leaf.get('pipeline') is None for leaf in own):
        raise ValueError(f'{source}_dataloader.dataset has no pipeline, which calibration needs: give it one')
    if source == split:
        return [leaf['pipeline'] for leaf in leaves]
    return [read_images_like(own[0]['pipeline'], leaf.get('pipeline')) for leaf in leaves]
