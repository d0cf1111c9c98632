"""A small instance segmentation set in COCO format, drawn deterministically on the user's machine.

Seven classes that differ by outline, and less reliably by hue: the hues of neighbouring classes overlap. Texture, size,
rotation and background are random, objects occlude each other and run out of the image, and unlabelled clutter of any
colour competes with them. Masks are the visible parts.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from .generated import write_once

CLASSES = ('disc', 'triangle', 'square', 'star', 'cross', 'crescent', 'arrow')
SPLITS = {'train': 900, 'val': 160}
STREAMS = {'train': 0, 'val': 1, 'test': 2}  # of random numbers: no split has the images of another
FORMAT_VERSION = 1
MIN_VISIBLE_SHARE = 0.3
MIN_AREA = 48
HUE_SPREAD = 16.0  # degrees, standard deviation; classes are 51 degrees apart

Rng = np.random.Generator


def make_shapes(root: Path, seed: int = 7, splits: dict[str, int] = SPLITS) -> None:
    """Write `root/{train,val}/*.jpg` and `root/annotations/instances_{train,val}.json`.

    An existing complete set of the same seed and size is left alone. A larger split begins with the images of a
    smaller one.

    Args:
        splits: name, of `STREAMS`, -> number of images.

    Raises:
        FileExistsError: `root` exists and holds something else.
        ValueError: an unknown split, or a number of images that is none.
    """
    for split, count in splits.items():
        if split not in STREAMS or isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f'a split is one of {list(STREAMS)} with at least one image, got {split!r}: {count!r}')
    stamp = {'version': FORMAT_VERSION, 'seed': seed, 'splits': splits}

    def write(unfinished: Path) -> None:
        for split, count in splits.items():
            _write_split(unfinished, split, count, seed=[seed, STREAMS[split]])

    write_once(Path(root), stamp, write)


def make_test_shapes(root: Path, count: int, seed: int = 7) -> None:
    """Write a set of `count` images of the split `test` alone; raises as `make_shapes`."""
    make_shapes(root, seed, {'test': count})


def _write_split(root: Path, split: str, count: int, seed: list[int]) -> None:
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in track(range(1, count + 1), description=f'drawing {count} {split} images'):
        picture, objects = draw_image(np.random.default_rng([*seed, image_id]))
        height, width = picture.shape[:2]
        file_name = f'{image_id:06d}.jpg'
        cv2.imwrite(str(root / split / file_name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        for class_index, mask in objects:
            annotation = dict(image_id=image_id, category_id=class_index + 1, iscrowd=0, id=len(annotations) + 1)
            annotations.append(annotation | _coco_geometry(mask))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories, info=dict(seed=seed))
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def draw_image(rng: Rng) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Return one BGR image, uint8 (H, W, 3), and its objects: class index and visible mask, bool (H, W)."""
    height, width = (int(v) for v in rng.integers(208, 289, size=2))
    picture = _background(rng, height, width)
    _clutter(rng, picture)
    visible: list[tuple[int, np.ndarray, int]] = []  # class, visible mask, area before occlusion
    for _ in range(rng.integers(3, 10)):
        class_index = int(rng.integers(len(CLASSES)))
        mask = _object_mask(rng, CLASSES[class_index], height, width)
        if not mask.any():
            continue
        _paint(rng, picture, mask, hue=360 * class_index / len(CLASSES) + rng.normal(0, HUE_SPREAD))
        visible = [(c, m & ~mask, area) for c, m, area in visible] + [(class_index, mask, int(mask.sum()))]
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(2, 10)
    picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return picture, [(c, m) for c, m, area in visible if m.sum() >= max(MIN_AREA, MIN_VISIBLE_SHARE * area)]


def _object_mask(rng: Rng, name: str, height: int, width: int) -> np.ndarray:
    """Return the filled outline, bool (H, W); centres may lie near the border, so that objects are truncated."""
    radius = float(np.exp(rng.uniform(np.log(9), np.log(70))))
    outline = _outline(name) * radius * rng.uniform(0.8, 1.2, size=2)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = outline @ rotation.T + rng.uniform((0, 0), (width, height))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def _outline(name: str) -> np.ndarray:
    """Return the polygon of a class, (points, 2), within the unit disc."""
    if name == 'disc':
        return _circle(np.linspace(0, 2 * np.pi, 48, endpoint=False))
    if name == 'triangle':
        return _circle(np.arange(3) * 2 * np.pi / 3)
    if name == 'square':
        return _circle(np.pi / 4 + np.arange(4) * np.pi / 2)
    if name == 'star':
        return _circle(np.arange(10) * np.pi / 5) * np.where(np.arange(10) % 2, 0.4, 1.0)[:, None]
    if name == 'cross':
        a, b = 0.32, 0.95
        quarter = np.array([(b, -a), (b, a), (a, a)])
        turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in np.arange(4) * np.pi / 2]
        return np.concatenate([quarter @ turn.T for turn in turns])
    if name == 'crescent':
        outer = _circle(np.linspace(0.25 * np.pi, 1.75 * np.pi, 32))
        inner = _circle(np.linspace(1.65 * np.pi, 0.35 * np.pi, 32)) * 0.78 + (0.35, 0)
        return np.concatenate([outer, inner])
    if name == 'arrow':
        return np.array([(1, 0), (0.1, 0.75), (0.1, 0.28), (-0.95, 0.28), (-0.95, -0.28), (0.1, -0.28), (0.1, -0.75)])
    raise ValueError(f'no outline is known for {name!r}; the classes are {CLASSES}')


def _circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _smooth_noise(rng: Rng, height: int, width: int, cell: float) -> np.ndarray:
    """Return noise in [0, 1], (H, W), with features of about `cell` pixels."""
    coarse = rng.random((max(2, int(height / cell)), max(2, int(width / cell)))).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _colours(rng: Rng, hue: float, saturation: tuple[float, float]) -> np.ndarray:
    """Return two BGR colours of about one hue (degrees) and different brightness, (2, 3)."""
    hues = (hue + rng.normal(0, 8, 2)) % 360 / 2
    values = np.stack([hues, rng.uniform(*saturation, 2) * 255, rng.uniform(70, 255, 2)], axis=1)
    return cv2.cvtColor(values[None].astype(np.uint8), cv2.COLOR_HSV2BGR)[0].astype(np.float64)


def _texture(rng: Rng, height: int, width: int, colours: np.ndarray) -> np.ndarray:
    """Return a random texture, float (H, W, 3) in [0, 255]: two colours mixed by stripes, checks, noise or a ramp."""
    first, second = colours
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 28)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(4)
    if kind == 0:
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * u / period)
    elif kind == 1:
        mix = ((u // period + v // period) % 2).astype(np.float32)
    elif kind == 2:
        mix = _smooth_noise(rng, height, width, period)
    else:
        mix = (u - u.min()) / np.ptp(u)
    mix = mix[..., None] * rng.uniform(0.3, 1.0)
    return first * (1 - mix) + second * mix


def _background(rng: Rng, height: int, width: int) -> np.ndarray:
    picture = _texture(rng, height, width, _colours(rng, rng.uniform(0, 360), saturation=(0.0, 0.4)))
    for cell in (60, 20, 6):
        grain = _smooth_noise(rng, height, width, cell)[..., None] - 0.5
        picture = picture + grain * rng.uniform(10, 60) * rng.uniform(0.6, 1.0, size=3)
    return picture.clip(0, 255)


def _clutter(rng: Rng, picture: np.ndarray) -> None:
    """Draw unlabelled lines, arcs and ragged blobs onto `picture`, in place."""
    height, width = picture.shape[:2]
    for _ in range(rng.integers(6, 20)):
        start, end = (tuple(int(c) for c in rng.uniform((0, 0), (width, height))) for _ in range(2))
        colour, thickness = tuple(rng.uniform(0, 255, 3)), int(rng.integers(1, 4))
        kind = rng.integers(3)
        if kind == 0:
            cv2.line(picture, start, end, colour, thickness)
        elif kind == 1:
            axes = tuple(int(a) for a in rng.integers(6, 50, 2))
            first = rng.uniform(0, 360)
            cv2.ellipse(
                picture, start, axes, rng.uniform(0, 180), first, first + rng.uniform(60, 200), colour, thickness
            )
        else:
            radii = rng.uniform(2, 14) * rng.uniform(0.4, 1.0, 9)[:, None]
            ragged = _circle(np.linspace(0, 2 * np.pi, 9, endpoint=False)) * radii + start
            cv2.fillPoly(picture, [np.round(ragged).astype(np.int32)], colour)


def _paint(rng: Rng, picture: np.ndarray, mask: np.ndarray, hue: float) -> None:
    """Fill the mask in `picture` by a texture, sometimes outlined, often slightly translucent; in place."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # texture only what will be seen
    area, inside = picture[window], mask[window][..., None]
    opacity = rng.uniform(0.75, 1.0)
    fill = _texture(rng, *inside.shape[:2], _colours(rng, hue, saturation=(0.5, 1.0))) * opacity + area * (1 - opacity)
    picture[window] = np.where(inside, fill, area)
    if rng.random() < 0.4:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, tuple(rng.uniform(0, 255, 3)), 1)


def _coco_geometry(mask: np.ndarray) -> dict:
    """Return segmentation polygons, bbox (x, y, w, h) and area of a mask, bool (H, W)."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [c.reshape(-1).astype(float).tolist() for c in contours if len(c) >= 3]
    y, x = np.nonzero(mask)
    left, top = int(x.min()), int(y.min())
    box = [left, top, int(x.max()) - left + 1, int(y.max()) - top + 1]
    return dict(segmentation=polygons, bbox=box, area=int(mask.sum()))
