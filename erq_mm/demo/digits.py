"""Handwritten digits as colour images in class folders, drawn deterministically on the user's machine.

The digits are the 1,797 of 8x8 pixels that come with scikit-learn (E. Alpaydin and C. Kaynak, Optical Recognition of
Handwritten Digits, UCI 1998). Each is drawn on 32x32 pixels: turned, moved and scaled a little, in a random bright
colour on a random dark and uneven one, with noise. A digit belongs to train or to val with all of its drawings; test
sets are further drawings of those of val.
"""

from pathlib import Path

import cv2
import numpy as np

from .generated import write_once

CLASSES = tuple('0123456789')
SIZE = 32
DIGITS, VAL_DIGITS = 1797, 597
DRAWINGS = {'train': 4, 'val': 1}
FORMAT_VERSION = 1
PAPER, PEN = (0, 110), (130, 255)  # ranges of the colours, per channel

Rng = np.random.Generator


def make_digits(root: Path, seed: int = 7, limit: int | None = None) -> None:
    """Write `root/{train,val}/{0..9}/*.png`; an existing complete set of the same seed and size is left alone.

    Args:
        limit: at most so many digits per split (for tests); all by default.

    Raises:
        FileExistsError: `root` exists and holds something else.
        ImportError: scikit-learn is missing.
    """
    stamp = {'version': FORMAT_VERSION, 'seed': seed, 'limit': limit}

    def write(unfinished: Path) -> None:
        for split, members in split_digits(seed).items():
            drawn = [(index, drawing) for index in members[:limit] for drawing in range(DRAWINGS[split])]
            _write_split(unfinished / split, drawn, seed)

    write_once(Path(root), stamp, write)


def make_test_digits(root: Path, count: int, seed: int = 7) -> None:
    """Write `root/test/{0..9}/*.png` alone: `count` further drawings of the digits of `val`; raises as `make_digits`.

    Every digit is drawn once before one is drawn again, so a larger set begins with the images of a smaller one.
    """
    members, first = split_digits(seed)['val'], DRAWINGS['val']
    drawn = [(members[number % VAL_DIGITS], first + number // VAL_DIGITS) for number in range(count)]
    stamp = {'version': FORMAT_VERSION, 'seed': seed, 'test': count}
    write_once(Path(root), stamp, lambda unfinished: _write_split(unfinished / 'test', drawn, seed))


def _write_split(folder: Path, drawn: list[tuple[int, int]], seed: int) -> None:
    """Write the drawings of digits, (index of the digit, number of its drawing)."""
    digits, labels = load_digits()
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for index, drawing in drawn:
        picture = draw_digit(np.random.default_rng([seed, index, drawing]), digits[index])
        cv2.imwrite(str(folder / CLASSES[labels[index]] / f'{index:04d}_{drawing}.png'), picture)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits in [0, 1], (1797, 8, 8), and their labels, (1797,)."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "the handwritten digits come with scikit-learn: pip install 'erq_mm[demo-classification]'"
        ) from error
    bunch = load()
    return bunch.images.astype(np.float32) / 16, bunch.target


def split_digits(seed: int) -> dict[str, list[int]]:
    """Return the digits of each split, in random order."""
    order = np.random.default_rng(seed).permutation(DIGITS).tolist()
    return {'train': order[VAL_DIGITS:], 'val': order[:VAL_DIGITS]}


def draw_digit(rng: Rng, digit: np.ndarray) -> np.ndarray:
    """Return one BGR image, uint8 (32, 32, 3), of a digit in [0, 1], (8, 8)."""
    ink = _place(rng, digit)[..., None]
    paper = rng.uniform(*PAPER, 3) + (_smooth_noise(rng) - 0.5) * rng.uniform(0, 100)
    pen = rng.uniform(*PEN, 3)
    picture = paper * (1 - ink) + pen * ink + rng.normal(0, rng.uniform(2, 30), (SIZE, SIZE, 3))
    return picture.clip(0, 255).round().astype(np.uint8)


def _place(rng: Rng, digit: np.ndarray) -> np.ndarray:
    """Return how much of each pixel is ink, float (32, 32)."""
    scale = rng.uniform(2.6, 3.6)
    matrix = cv2.getRotationMatrix2D((3.5, 3.5), rng.normal(0, 8), scale)
    matrix[:, 2] += (SIZE - 1) / 2 - 3.5 + rng.uniform(-2, 2, 2)
    return cv2.warpAffine(digit, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC).clip(0, 1)


def _smooth_noise(rng: Rng) -> np.ndarray:
    """Return noise in [0, 1] with features of about 8 pixels, (32, 32, 3)."""
    coarse = rng.random((SIZE // 8, SIZE // 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
