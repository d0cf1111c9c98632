"""The models of a grid, detectors or classifiers: by name, or a user's own config and checkpoint."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from ..engine.evaluation import load_config
from ..engine.image_sets import annotation_file, leaf_datasets, location_of
from .named import DEMO, IMAGENET, TITLES, imagenet_files
from .protocols import Protocol, protocol_of
from .storage import digest_of, file_digest

KEYS = ('name', 'config', 'checkpoint', 'options')


@dataclass(frozen=True)
class Detector:
    """A float detector or classifier.

    Attributes:
        name: short, for rows and file names.
        checkpoint: a file, or an address of a scheme that mmengine loads from, such as `timm://MODEL`.
        options: `key=value` as for --cfg-options; they say all that `test_images` does to the config.
        test_images: number of generated images that evaluate a demo's detector in the place of its own, or None.
    """

    name: str
    config: str
    checkpoint: str
    options: tuple[str, ...] = ()
    test_images: int | None = None

    @property
    def label(self) -> str:
        """What files of its cells begin with."""
        return self.name if self.test_images is None else f'{self.name}-test{self.test_images}'

    @property
    def title(self) -> str:
        """What tables call it."""
        title = TITLES.get(self.name, self.name)
        return title if self.test_images is None else f'{title}, {self.test_images:,} test images'

    def load_config(self) -> Config:
        """Return the config with the options merged in."""
        config = load_config(self.config)
        if self.options:
            config.merge_from_dict(parse_options(self.options))
        return config

    @property
    def protocol(self) -> Protocol:
        """How it is evaluated; raises ValueError as `protocol_of`."""
        return _protocol(self)

    def digest(self) -> str:
        """Return a fingerprint of config, checkpoint and annotations: of everything that decides a float result."""
        return _digest(self)


@cache
def _protocol(detector: Detector) -> Protocol:
    return protocol_of(detector.load_config())


@cache
def _digest(detector: Detector) -> str:
    config = detector.load_config()
    return digest_of(
        {
            'config': config.to_dict(),
            'checkpoint': detector.checkpoint if _is_address(detector.checkpoint) else file_digest(detector.checkpoint),
            'annotations': [file_digest(path) for path in annotation_files(config) if os.path.isfile(path)],
        }
    )


def _is_address(path: str) -> bool:
    return '://' in path


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Return `key=value` texts as mmengine's --cfg-options reads them."""
    return {key: DictAction._parse_iterable(value) for key, value in (option.split('=', 1) for option in options)}


def annotation_files(config: Config) -> list[str]:
    """Return the annotation files of the train and test data, in that order, as far as they are local files."""
    paths = [annotation_file(leaf) for leaf in _local_data(config)]
    return [path for path in paths if path is not None and not _is_address(path)]


def _local_data(config: Config) -> list[Any]:
    """Return the data sets of the train and test loaders that lie in files."""
    loaders = [config[name] for name in ('train_dataloader', 'test_dataloader') if config.get(name) is not None]
    leaves = [leaf for loader in loaders for leaf in leaf_datasets(loader.dataset)]
    return [leaf for leaf in leaves if leaf.get('backend_args') is None]


def resolve_detector(entry: str | Mapping[str, Any], root: Path, test_images: int | None = None) -> Detector:
    """Return the model meant by a name or by `dict(config=, checkpoint=, options=[...], name=)`.

    Args:
        root: of the repository, where the demo models are.
        test_images: evaluate on so many generated images; None means the test set of the config.

    Raises:
        ValueError: unknown name or key, or generated test images for a model of other data.
        FileNotFoundError: config or checkpoint is missing.
    """
    if test_images is not None:
        return _check_files(_on_test_images(entry, root, test_images))
    if isinstance(entry, str):
        return _check_files(_named_detector(entry, root))
    if not isinstance(entry, Mapping):
        raise ValueError(f'a detector is one of {[*DEMO, *IMAGENET]} or a dict with {KEYS}, got {entry!r}')
    unknown = sorted(set(entry) - set(KEYS))
    absent = [key for key in ('config', 'checkpoint') if key not in entry]
    if unknown or absent:
        raise ValueError(f'detector {dict(entry)}: unknown keys {unknown}, missing keys {absent}; keys are {KEYS}')
    options = tuple(entry.get('options') or ())
    malformed = [option for option in options if not isinstance(option, str) or '=' not in option]
    if malformed:
        raise ValueError(f'detector options must be "key=value" texts, got {malformed}')
    name = entry.get('name') or Path(entry['config']).stem
    return _check_files(Detector(name, str(entry['config']), str(entry['checkpoint']), options))


def _named_detector(name: str, root: Path) -> Detector:
    if name in IMAGENET:
        return Detector(name, *imagenet_files(name))
    if name not in DEMO:
        close = difflib.get_close_matches(name, [*DEMO, *IMAGENET], n=1)
        raise ValueError(
            f'unknown detector {name!r}'
            + (f', did you mean {close[0]!r}?' if close else '')
            + f'; the demo models are '
            f'{list(DEMO)}, those of ImageNet {list(IMAGENET)}, your own is dict(config=..., checkpoint=...)'
        )
    config, checkpoint = DEMO[name].files(root)
    if not os.path.isdir(os.path.dirname(checkpoint)):
        raise FileNotFoundError(
            f'the demo detector {name!r} is in the repository, not in the installed package: give your own, '
            'detectors=[dict(config=..., checkpoint=...)], or run tools/benchmark.py of a clone'
        )
    return Detector(name, config, checkpoint, DEMO[name].options(root))


def _on_test_images(entry: str | Mapping[str, Any], root: Path, count: int) -> Detector:
    """Return a demo's detector that a generated test set evaluates."""
    if not isinstance(entry, str) or entry not in DEMO:
        raise ValueError(
            f'test_images={count} draws images for the demo models {list(DEMO)} alone, and {entry!r} has data of its '
            'own: leave test_images out, or give that one another grid'
        )
    detector = _named_detector(entry, root)
    options = (*detector.options, *DEMO[entry].test_options(root, count))
    return replace(detector, options=options, test_images=count)


def _check_files(detector: Detector) -> Detector:
    if '::' not in detector.config and not os.path.isfile(detector.config):
        raise FileNotFoundError(f'detector {detector.name!r}: config {detector.config} does not exist')
    if not _is_address(detector.checkpoint) and not os.path.isfile(detector.checkpoint):
        raise FileNotFoundError(
            f'detector {detector.name!r}: checkpoint {detector.checkpoint} does not exist; download or train it first'
        )
    return detector


def prepare_data(detectors: list[Detector], root: Path) -> None:
    """Draw the images of the demo models that are used; check that every other data set is there.

    Raises:
        FileNotFoundError: an annotation file or a folder of images is missing, naming it.
    """
    for name, test_images in {(detector.name, detector.test_images) for detector in detectors}:
        if name in DEMO:
            DEMO[name].draw(root, test_images)
    for detector in detectors:
        for dataset in _local_data(detector.load_config()):
            _check_data(detector, dataset)


def _check_data(detector: Detector, dataset: Any) -> None:
    file = annotation_file(dataset)
    what, path = ('folder', location_of(dataset)) if file is None else ('annotation file', file)
    if not _is_address(path) and not os.path.exists(path) and dataset.get('data_root') is not None:
        raise FileNotFoundError(
            f'detector {detector.name!r}: {what} {path} does not exist; set data_root'
            f'{" and ann_file" if file else ""} with options=["test_dataloader.dataset.data_root=..."]'
        )
