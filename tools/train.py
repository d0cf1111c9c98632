"""Train a detector with mmengine's Runner and write its weights, without optimizer state, beside the checkpoints.

An interrupted training goes on from its last checkpoint when the same command is given again.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

import erq_mm.engine  # noqa: F401  registers the plugin and lets mmengine's own checkpoints load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--work-dir', help='default: work_dirs/<config name>')
    parser.add_argument('--weights', type=Path, help='where to write the weights when training is complete')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='key=value pairs for the config'
    )
    args = parser.parse_args()

    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    config.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    config.resume = True
    config.launcher = 'none'
    runner = Runner.from_cfg(config)
    runner.train()
    weights = args.weights or Path(config.work_dir) / 'weights.pth'
    unfinished = weights.with_suffix('.unfinished')
    torch.save({'state_dict': compact(runner.model.state_dict()), 'meta': {}}, unfinished)
    unfinished.rename(weights)
    print(f'weights: {weights}')


def compact(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights for distribution: matrices in half precision (they load into float32), the rest as it is."""
    return {
        key: value.cpu().half() if value.is_floating_point() and value.dim() > 1 else value.cpu()
        for key, value in state.items()
    }


if __name__ == '__main__':
    main()
