"""The detectors of a grid: the embedded demo detectors by name, or a user's own config and checkpoint."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from ..demo.shapes import make_shapes
from ..engine.evaluation import load_config
from ..engine.image_sets import annotation_file, leaf_datasets
from .protocols import Protocol, protocol_of
from .storage import digest_of, file_digest

DEMO = {'mask': 'mask-rcnn_swin-mini', 'cascade': 'cascade-mask-rcnn_swin-mini'}
TITLES = {'mask': 'Mask R-CNN Swin-mini', 'cascade': 'Cascade Mask R-CNN Swin-mini'}
DEMO_DATA = Path('data/shapes')
KEYS = ('name', 'config', 'checkpoint', 'options')


@dataclass(frozen=True)
class Detector:
    """A float detector.

    Attributes:
        name: short, for rows and file names.
        options: `key=value` as for --cfg-options.
    """

    name: str
    config: str
    checkpoint: str
    options: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What tables call it."""
        return TITLES.get(self.name, self.name)

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
            'checkpoint': file_digest(detector.checkpoint),
            'annotations': [file_digest(path) for path in annotation_files(config) if os.path.isfile(path)],
        }
    )


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Return `key=value` texts as mmengine's --cfg-options reads them."""
    return {key: DictAction._parse_iterable(value) for key, value in (option.split('=', 1) for option in options)}


def annotation_files(config: Config) -> list[str]:
    """Return the annotation files of the train and test data, in that order, as far as they are local files."""
    loaders = [config[name] for name in ('train_dataloader', 'test_dataloader') if config.get(name) is not None]
    leaves = [leaf for loader in loaders for leaf in leaf_datasets(loader.dataset)]
    paths = [annotation_file(leaf) for leaf in leaves if leaf.get('backend_args') is None]
    return [path for path in paths if path is not None and '://' not in path]


def resolve_detector(entry: str | Mapping[str, Any], root: Path) -> Detector:
    """Return the detector meant by a demo name or by `dict(config=, checkpoint=, options=[...], name=)`.

    Args:
        root: of the repository, where the demo detectors are.

    Raises:
        ValueError: unknown name or key. FileNotFoundError: config or checkpoint is missing.
    """
    if isinstance(entry, str):
        return _check_files(_demo_detector(entry, root))
    if not isinstance(entry, Mapping):
        raise ValueError(f'a detector is one of {sorted(DEMO)} or a dict with {KEYS}, got {entry!r}')
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


def _demo_detector(name: str, root: Path) -> Detector:
    if name not in DEMO:
        close = difflib.get_close_matches(name, DEMO, n=1)
        raise ValueError(
            f'unknown detector {name!r}' + (f', did you mean {close[0]!r}?' if close else '') + f'; the demo detectors '
            f'are {sorted(DEMO)}, your own is dict(config=..., checkpoint=...)'
        )
    folder, file = Path(os.path.relpath(root / 'configs/shapes')), DEMO[name]
    if not (folder / 'checkpoints').is_dir():
        raise FileNotFoundError(
            f'the demo detector {name!r} is in the repository, not in the installed package: give your own, '
            'detectors=[dict(config=..., checkpoint=...)], or run tools/benchmark.py of a clone'
        )
    return Detector(name, str(folder / f'{file}_shapes.py'), str(folder / f'checkpoints/{file}.pth'), _demo_data(root))


def _demo_data(root: Path) -> tuple[str, ...]:
    """Point a demo detector to the repository's data when the tool runs elsewhere."""
    data = Path(os.path.relpath(root / DEMO_DATA))
    if data == DEMO_DATA:
        return ()
    loaders = (f'{split}_dataloader.dataset.data_root={data}/' for split in ('train', 'val', 'test'))
    return *loaders, f'test_evaluator.ann_file={data}/annotations/instances_val.json'


def _check_files(detector: Detector) -> Detector:
    if '::' not in detector.config and not os.path.isfile(detector.config):
        raise FileNotFoundError(f'detector {detector.name!r}: config {detector.config} does not exist')
    if not os.path.isfile(detector.checkpoint):
        raise FileNotFoundError(
            f'detector {detector.name!r}: checkpoint {detector.checkpoint} does not exist; download or train it first'
        )
    return detector


def prepare_data(detectors: list[Detector], root: Path) -> None:
    """Draw the demo's images if a demo detector is used; check that every other data set is there.

    Raises:
        FileNotFoundError: an annotation file is missing, naming it.
    """
    if any(detector.name in DEMO for detector in detectors):
        (root / DEMO_DATA).parent.mkdir(parents=True, exist_ok=True)
        make_shapes(root / DEMO_DATA)
    for detector in detectors:
        absent = [path for path in annotation_files(detector.load_config()) if not os.path.isfile(path)]
        if absent:
            raise FileNotFoundError(
                f'detector {detector.name!r}: annotation file {absent[0]} does not exist; set data_root and ann_file '
                'with options=["test_dataloader.dataset.data_root=..."]'
            )
