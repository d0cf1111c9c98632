"""Detectors: box and mask AP of a CocoMetric, from per-image matches."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from numpy.typing import NDArray
from pycocotools.coco import COCO

from ...analysis.bootstrap import average_precision
from ...engine.image_sets import leaf_datasets
from ..matches import from_arrays, match_detections, to_arrays
from .base import Arrays, Metric, Protocol, Recorder, evaluators, type_name

METRICS = (
    Metric('box', 'box AP', 'AP', 'bbox', 'box_ap', 'coco/bbox_mAP'),
    Metric('mask', 'mask AP', 'AP', 'segm', 'mask_ap', 'coco/segm_mAP'),
)


class CocoProtocol(Protocol):
    """AP over IoU thresholds and all areas, as COCOeval computes it."""

    metrics = METRICS
    needs = 'a CocoMetric with an ann_file'

    def fits(self, config: Config) -> bool:
        return _coco_metric(config) is not None

    def recorder(self, config: Config, work_dir: Path) -> Recorder:
        return DetectionRecorder(config, work_dir)

    def percent(self, arrays: Arrays, weights: Callable[[int], NDArray]) -> dict[str, NDArray]:
        return {
            task: 100 * average_precision(matches, weights(matches.ground_truths.shape[1]))
            for task, matches in from_arrays(arrays).items()
        }


class DetectionRecorder(Recorder):
    """Lets CocoMetric write its detections and matches them to the ground truth."""

    def __init__(self, config: Config, work_dir: Path) -> None:
        self._evaluator, place = _coco_metric(config)
        self._prefix = work_dir / 'detections'
        self._classes = (leaf_datasets(config.test_dataloader.dataset)[0].get('metainfo') or {}).get('classes')
        self.options = (f'{place}.outfile_prefix={self._prefix}',)

    def arrays(self) -> dict[str, NDArray]:
        truth, found = COCO(self._evaluator['ann_file']), {}
        category_ids = truth.getCatIds(catNms=list(self._classes or []))
        for task in (metric.stored for metric in METRICS):
            file = Path(f'{self._prefix}.{task}.json')
            if file.exists():
                found[task] = match_detections(truth, file, task, category_ids, truth.getImgIds())
        return to_arrays(found)


def _coco_metric(config: Config) -> tuple[Mapping[str, Any], str] | None:
    """Return the config's CocoMetric, and where it is in the config."""
    listed = evaluators(config)
    for index, evaluator in enumerate(listed):
        if type_name(evaluator) == 'CocoMetric' and evaluator.get('ann_file'):
            alone = listed[0] is config.test_evaluator
            return evaluator, 'test_evaluator' if alone else f'test_evaluator.{index}'
    return None
