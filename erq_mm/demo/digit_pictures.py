"""A picture of images and of what every run takes them for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import mmcv

from .classification import Predictions

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  the backend must be chosen first

RIGHT, WRONG = 'tab:green', 'tab:red'
LINE = 0.13  # height of a line of text, as a share of the image's


def draw_predictions(
    path: Path, rows: Mapping[str, Sequence[Predictions]], images: Mapping[str, Sequence[int]], classes: Sequence[str]
) -> None:
    """Write a PNG: a row of images per model, and under each image what the runs say, green where they are right.

    Args:
        rows: title -> runs on the same images.
        images: title -> the images to show.
        classes: class names, by label.
    """
    columns, lines = max(map(len, images.values())), max(map(len, rows.values()))
    height = 1.5 * (1 + LINE * (lines + 2))
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.5 * columns, height * len(rows)), squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for row, (title, runs) in enumerate(rows.items()):
        axes[row, 0].set_title(title, loc='left', fontsize=10)
        for axis, index in zip(axes[row], images[title], strict=False):
            axis.imshow(mmcv.imread(runs[0].paths[index], channel_order='rgb'))
            for line, run in enumerate(runs):
                colour = RIGHT if run.correct[index] else WRONG
                text = f'{run.name}: {classes[run.predicted[index]]}'
                axis.text(0, -LINE * (line + 1), text, color=colour, fontsize=8, transform=axis.transAxes)
    figure.tight_layout()
    unfinished = path.with_name(f'.{path.name}')
    figure.savefig(unfinished, dpi=100, format='png', bbox_inches='tight')  # with the lines of text below the axes
    unfinished.replace(path)
    plt.close(figure)
