"""Two processes give a classifier the scores of one, to the digit, and so does the file that one of them saved."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ...processes import evaluate

QUANTIZATION = 'default_hooks.quantization'


@pytest.mark.slow
def test_two_processes_equal_one(write_config: Callable, checkpoint: Path, tmp_path: Path) -> None:
    config, file = write_config(), tmp_path / 'model.safetensors'
    options = ['--cfg-options', f'{QUANTIZATION}.calibration.num_images=4']

    def run(name: str, weights: Path, arguments: list[str], processes: int) -> tuple[dict, torch.Tensor]:
        dump = tmp_path / f'{name}.pkl'
        logged = evaluate(config, str(weights), tmp_path / name, ['--out', str(dump), *arguments], processes)
        samples = pickle.loads(dump.read_bytes())
        return {k: v for k, v in logged.items() if 'accuracy' in k}, torch.stack([s['pred_score'] for s in samples])

    recipe = ['--recipe', 'erq_w4a4', *options]
    metrics, scores = run('one', checkpoint, recipe, 1)
    assert metrics and len(scores) == 12
    others = [run('two', checkpoint, [*recipe, f'{QUANTIZATION}.save={file}'], 2), run('loaded', file, [], 2)]
    for other_metrics, other_scores in others:
        assert other_metrics == metrics
        assert torch.equal(other_scores, scores)
    assert len(list((tmp_path / 'two').glob('*/quantization.json'))) == 1
