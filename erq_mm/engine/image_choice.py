"""Which images of the sets calibrate: by a seed, or by name."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from .image_sets import ImageSet

Place = tuple[ImageSet, int]  # one image: its set, and its index there
Places = dict[str, list[Place]]


def choose_images(sets: Sequence[ImageSet], count: int | None, seed: int) -> list[Place]:
    """Return `count` images that have objects (any images, if none has); a larger count contains the smaller one's.

    The seed decides together with the ids alone, in the order of their text: not the order of the annotation file.

    Args:
        count: None means all of them.

    Raises:
        ValueError: there are fewer images.
    """
    has_objects = np.concatenate([np.array(s.has_objects, bool) for s in sets])
    candidates = np.flatnonzero(has_objects if has_objects.any() else ~has_objects).tolist()
    if count is not None and count > len(candidates):
        raise ValueError(
            f'calibration asks for {count} images and {_locations(sets)} has {len(candidates)}'
            f'{" with objects" if has_objects.any() else ""}; lower default_hooks.quantization.calibration.num_images'
        )
    texts = [str(image_id) for s in sets for image_id in s.ids]
    candidates.sort(key=texts.__getitem__)
    order = np.random.RandomState(seed).permutation(len(candidates))
    return [_place(sets, candidates[i]) for i in order[:count]]


def _place(sets: Sequence[ImageSet], index: int) -> Place:
    """Return the set, and the index in it, of an image that is counted through all sets."""
    ends = list(accumulate(len(s.ids) for s in sets))
    image_set = sets[bisect_right(ends, index)]
    return image_set, index - ends[bisect_right(ends, index)] + len(image_set.ids)


def find_images(sets: Sequence[ImageSet], image_ids: Sequence[int | str]) -> list[Place]:
    """Return the images of these ids: written with the name of their set as in the report, or plain if one set has it.

    Raises:
        ValueError: no set has an id, or several have.
    """
    named, plain = _places_of({str(image_id) for image_id in image_ids}, sets)
    missing = [image_id for image_id in image_ids if str(image_id) not in named and str(image_id) not in plain]
    if missing:
        examples = [s.label(index) for s in sets for index in range(min(3, len(s.ids)))]
        raise ValueError(
            f'calibration image ids {missing} are not in {_locations(sets)} ({sum(len(s.ids) for s in sets)} images, '
            f'e.g. ids {examples})'
        )
    return [named[str(i)][0] if str(i) in named else _only_place(str(i), plain[str(i)]) for i in image_ids]


def _places_of(wanted: set[str], sets: Sequence[ImageSet]) -> tuple[Places, Places]:
    """Return the places of ids that are written with the name of their set, and of plain ones."""
    named: Places = defaultdict(list)
    plain: Places = defaultdict(list)
    for image_set in sets:
        prefix = f'{image_set.name}:'
        wanted_here = {text.removeprefix(prefix) for text in wanted if text.startswith(prefix)}
        for index, text in enumerate(map(str, image_set.ids)):
            if text in wanted:
                plain[text].append((image_set, index))
            if text in wanted_here:
                named[prefix + text].append((image_set, index))
    return named, plain


def _only_place(image_id: str, places: list[Place]) -> Place:
    labels = list(dict.fromkeys(str(s.label(index)) for s, index in places))
    if len(labels) > 1:
        raise ValueError(f'calibration image id {image_id} is in several sets: write one of {labels}')
    return places[0]


def _locations(sets: Sequence[ImageSet]) -> str:
    return ', '.join(s.location for s in sets)
