"""Files are whole or absent, and fingerprints follow contents."""

import os
from pathlib import Path

import numpy as np
import pytest

from erq_mm.benchmark.provenance import PACKAGE, code_digest, commit
from erq_mm.benchmark.storage import digest_of, write_arrays, write_json, write_whole


def test_a_failing_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'sub/result.json'
    write_json(path, {'a': 1})

    def fail(*_: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='disk full'):
        write_whole(path, 'new')
    assert [p.name for p in path.parent.iterdir()] == ['result.json']
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / 'a.json', {'ap': float('nan')})
    assert not list(tmp_path.iterdir())


def test_arrays_come_back(tmp_path: Path) -> None:
    write_arrays(tmp_path / 'a.npz', {'x': np.arange(5), 'y': np.eye(2, dtype=bool)})
    with np.load(tmp_path / 'a.npz') as stored:
        assert (stored['x'] == np.arange(5)).all() and (stored['y'] == np.eye(2, dtype=bool)).all()


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({'a': 1, 'b': (2, 3)}) == digest_of({'b': [2, 3], 'a': 1}) != digest_of({'a': 1, 'b': [3, 2]})


def test_commit_is_unknown_without_git(tmp_path: Path) -> None:
    assert commit(tmp_path) == 'unknown'
    assert code_digest() == code_digest() and (PACKAGE / 'core').is_dir()
