"""Handwritten digits as colour images in class folders, drawn deterministically on the user's machine.

The digits are the 1,797 of 8x8 pixels that come with scikit-learn (E. Alpaydin and C. Kaynak, Optical Recognition of
Handwritten Digits, UCI 1998). Each is drawn on 32x32 pixels: turned, moved and scaled a little, in a random bright
colour on a random dark and uneven one, with noise. A digit belongs to train or to val with all of its drawings.
"""

from pathlib import Path

import cv2
import numpy as np

from .generated import write_once

CLASSES = tuple('0123456789')
SIZE = 32
VAL_DIGITS = 597  # of 1,797
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
    write_once(Path(root), stamp, lambda unfinished: _write(unfinished, seed, limit))


def _write(root: Path, seed: int, limit: int | None) -> None:
    digits, labels = load_digits()
    for split, members in split_digits(len(digits), seed).items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
        for index in members[:limit]:
            for drawing in range(DRAWINGS[split]):
                picture = draw_digit(np.random.default_rng([seed, index, drawing]), digits[index])
                cv2.imwrite(str(root / split / CLASSES[labels[index]] / f'{index:04d}_{drawing}.png'), picture)


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


def split_digits(count: int, seed: int) -> dict[str, list[int]]:
    """Return the digits of each split, in random order."""
    order = np.random.default_rng(seed).permutation(count).tolist()
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
