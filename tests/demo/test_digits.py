"""The digits as images: all of scikit-learn's, each in one split, deterministic, written whole."""

import hashlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from erq_mm.demo.digits import (
    CLASSES,
    DIGITS,
    DRAWINGS,
    VAL_DIGITS,
    draw_digit,
    load_digits,
    make_digits,
    make_test_digits,
    split_digits,
)


def test_every_digit_is_in_one_split() -> None:
    splits = split_digits(seed=7)
    assert len(splits['val']) == VAL_DIGITS
    assert sorted(splits['train'] + splits['val']) == list(range(DIGITS))
    assert splits != split_digits(seed=8)


def test_folders_are_classes_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn, an extra')
    make_digits(tmp_path / 'first', limit=40)
    make_digits(tmp_path / 'second', limit=40)
    sums = [{p.name: hashlib.md5(p.read_bytes()).digest() for p in root.rglob('*.png')} for root in tmp_path.iterdir()]
    assert sums[0] == sums[1]
    for split, drawings in DRAWINGS.items():
        assert sorted(p.name for p in (tmp_path / 'first' / split).iterdir()) == list(CLASSES)
        assert len(list((tmp_path / 'first' / split).rglob('*.png'))) == 40 * drawings
    picture = cv2.imread(str(next((tmp_path / 'first/val').rglob('*.png'))))
    assert picture.shape == (32, 32, 3)
    before = (tmp_path / 'first/stamp.json').stat().st_mtime_ns
    make_digits(tmp_path / 'first', limit=40)
    assert (tmp_path / 'first/stamp.json').stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match='move it away'):
        make_digits(tmp_path / 'first', seed=8, limit=40)


def test_a_test_set_is_other_drawings_of_the_val_digits_and_grows_at_its_end(tmp_path: Path) -> None:
    pytest.importorskip('sklearn', reason='the digits come with scikit-learn, an extra')
    make_digits(tmp_path / 'digits', limit=3)
    small, large = tmp_path / 'small', tmp_path / 'large'
    make_test_digits(small, 3)
    make_test_digits(large, VAL_DIGITS + 2)
    drawn, first, val = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.png')}
        for folder in (large / 'test', small / 'test', tmp_path / 'digits/val')
    )
    assert len(drawn) == VAL_DIGITS + 2 and first.items() < drawn.items()
    assert not set(val.values()) & set(drawn.values())
    _, labels = load_digits()
    members = split_digits(seed=7)['val']
    names = [f'{labels[i]}/{i:04d}_1.png' for i in members] + [f'{labels[i]}/{i:04d}_2.png' for i in members[:2]]
    assert {str(name) for name in drawn} == set(names)
    assert {f'{name.parent}/{name.stem[:4]}' for name in val} == {f'{labels[i]}/{i:04d}' for i in members[:3]}
    with pytest.raises(FileExistsError, match='move it away'):
        make_test_digits(large, VAL_DIGITS)


def test_ink_is_brighter_than_paper() -> None:
    digit = np.zeros((8, 8), np.float32)
    digit[:, 3:5] = 1  # an upright stroke through the middle
    brightness = np.mean([draw_digit(np.random.default_rng(i), digit).mean(-1) for i in range(30)], axis=0)
    assert brightness[12:20, 15:17].mean() > 150
    assert brightness[12:20, [0, 31]].mean() < 100


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='demo-classification'):
        make_digits(tmp_path / 'digits')
    assert not list(tmp_path.iterdir())  # nothing half written
