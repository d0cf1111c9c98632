"""A grid of pictures: one row per image, ground truth and every run's detections side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402  the backend must be chosen first

SCORE_THRESHOLD = 0.4


def draw_grid(
    path: Path, columns: Mapping[str, Sequence[DetDataSample]], classes: Sequence[str], titles: Mapping[str, str]
) -> None:
    """Write a PNG.

    Args:
        columns: name -> predictions of the same images in the same order; ground truth is taken from the first.
        classes: class names, by label.
        titles: name -> what stands above its column.
    """
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = {'classes': classes, 'palette': _palette(len(classes))}
    first = next(iter(columns.values()))
    all_columns = {'ground truth': first, **columns}
    figure, axes = plt.subplots(
        len(first), len(all_columns), figsize=(3.2 * len(all_columns), 3.2 * len(first)), squeeze=False
    )
    for column, (name, samples) in enumerate(all_columns.items()):
        for row, sample in enumerate(samples):
            axes[row, column].imshow(_draw(visualizer, sample, ground_truth=column == 0))
            axes[row, column].axis('off')
        axes[0, column].set_title(titles.get(name, name), fontsize=11)
    figure.tight_layout()
    unfinished = path.with_name(f'.{path.name}')
    figure.savefig(unfinished, dpi=100, format='png')
    unfinished.replace(path)
    plt.close(figure)


def _draw(visualizer: DetLocalVisualizer, sample: DetDataSample, ground_truth: bool) -> np.ndarray:
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    visualizer.add_datasample(
        'detections', image, sample, draw_gt=ground_truth, draw_pred=not ground_truth, pred_score_thr=SCORE_THRESHOLD
    )
    return visualizer.get_image()


def _palette(count: int) -> list[tuple[int, int, int]]:
    colours = plt.get_cmap('tab10')(np.arange(count) % 10)[:, :3]
    return [tuple(int(255 * c) for c in colour) for colour in colours]
