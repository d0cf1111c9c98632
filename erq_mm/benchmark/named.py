"""Models that a grid may call by name: the embedded ones of the demos, and the seven ImageNet models of the papers."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..demo.digits import make_digits
from ..demo.shapes import make_shapes
from ..engine.evaluation import load_config

IMAGENET = {
    'vit-s': 'ViT-S', 'vit-b': 'ViT-B', 'deit-t': 'DeiT-T', 'deit-s': 'DeiT-S', 'deit-b': 'DeiT-B',
    'swin-s': 'Swin-S', 'swin-b': 'Swin-B',
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """An embedded model.

    Attributes:
        title: what tables call it.
        data: name of its data set, by which the folders of its config and of its images are called.
        file: of its config, without that name, and of its checkpoint.
        make: draws the images into a folder, if they are not there.
        annotations: where the metric reads them, below the folder; None if they are the folders' names.
    """

    title: str
    data: str
    file: str
    make: Callable[[Path], None]
    annotations: str | None = None

    @property
    def images(self) -> Path:
        """Folder of the images, below the repository's."""
        return Path('data') / self.data

    def files(self, root: Path) -> tuple[str, str]:
        """Return config and checkpoint in a repository."""
        folder = Path(os.path.relpath(root / 'configs' / self.data))
        return str(folder / f'{self.file}_{self.data}.py'), str(folder / f'checkpoints/{self.file}.pth')

    def options(self, root: Path) -> tuple[str, ...]:
        """Return what points the config to the repository's images when the tool runs elsewhere."""
        images = Path(os.path.relpath(root / self.images))
        if images == self.images:
            return ()
        loaders = (f'{split}_dataloader.dataset.data_root={images}/' for split in ('train', 'val', 'test'))
        truth = (f'test_evaluator.ann_file={images}/{self.annotations}',) if self.annotations else ()
        return *loaders, *truth


BOXES = 'annotations/instances_val.json'
DEMO = {
    'mask': Demo('Mask R-CNN Swin-mini', 'shapes', 'mask-rcnn_swin-mini', make_shapes, BOXES),
    'cascade': Demo('Cascade Mask R-CNN Swin-mini', 'shapes', 'cascade-mask-rcnn_swin-mini', make_shapes, BOXES),
    'deit': Demo('DeiT-mini', 'digits', 'deit-mini', make_digits),
    'swin': Demo('Swin-mini', 'digits', 'swin-mini', make_digits),
}
TITLES = {name: demo.title for name, demo in DEMO.items()} | IMAGENET


def imagenet_files(name: str) -> tuple[str, str]:
    """Return the config of an ImageNet model, and its checkpoint: timm's own weights."""
    config = f'erq_mm::imagenet/{name}.py'
    return config, f'timm://{load_config(config).model.model_name}'
