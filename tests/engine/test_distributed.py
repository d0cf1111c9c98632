"""Two processes give the AP of one, to the digit, and so does the file that one of them saved."""

from pathlib import Path

import pytest

from ..processes import evaluate
from .conftest import CHECKPOINT, CONFIG


def run(work_dir: Path, checkpoint: str, arguments: list[str], processes: int) -> dict:
    logged = evaluate(CONFIG, checkpoint, work_dir, arguments, processes)
    return {k: v for k, v in logged.items() if 'mAP' in k}


def test_two_processes_equal_one(tmp_path: Path, data_options: list[str]) -> None:
    recipe = ['--recipe', 'erq', '--cfg-options', *data_options]
    one, two = (run(tmp_path / str(n), CHECKPOINT, recipe, n) for n in (1, 2))
    assert one == two
    assert one['coco/bbox_mAP'] > 0.1
    assert len(list((tmp_path / '2').glob('*/quantization.json'))) == 1


@pytest.mark.slow
def test_what_two_processes_saved(tmp_path: Path, data_options: list[str]) -> None:
    path = tmp_path / 'model.safetensors'
    save = ['--recipe', 'erq', '--cfg-options', *data_options, f'default_hooks.quantization.save={path}']
    two = run(tmp_path / 'saving', CHECKPOINT, save, 2)
    loaded = [run(tmp_path / f'loaded{n}', str(path), ['--cfg-options', *data_options], n) for n in (1, 2)]
    assert loaded == [two, two]
