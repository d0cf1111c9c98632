"""Models that a grid may call by name: the embedded ones of the demos, and the seven ImageNet models of the papers."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..demo.digits import make_digits, make_test_digits
from ..demo.shapes import make_shapes, make_test_shapes
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
        make_test: draws a test set of any number of images into a folder.
        test_set: what the config of the data set has to say to read a test set.
        annotations: where the metric reads them, below the folder, the demo's own and those of a test set; None if they
            are the folders' names.
    """

    title: str
    data: str
    file: str
    make: Callable[[Path], None]
    make_test: Callable[[Path, int], None]
    test_set: Mapping[str, str]
    annotations: tuple[str, str] | None = None

    @property
    def images(self) -> Path:
        """Folder of the images, below the repository's."""
        return Path('data') / self.data

    def test_folder(self, count: int) -> Path:
        """Return the folder of a test set of `count` images, beside that of the demo's own."""
        return self.images.with_name(f'{self.data}-test-{count}')

    def draw(self, root: Path, test_images: int | None) -> None:
        """Draw what is not there yet of the demo's images, and of a test set of its own, in the repository's folder."""
        (root / self.images).parent.mkdir(parents=True, exist_ok=True)
        self.make(root / self.images)
        if test_images is not None:
            self.make_test(root / self.test_folder(test_images), test_images)

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
        return *loaders, *self._truth(images, 0)

    def test_options(self, root: Path, count: int) -> tuple[str, ...]:
        """Return what makes a test set of `count` images the one that is evaluated."""
        images = Path(os.path.relpath(root / self.test_folder(count)))
        values = {'data_root': f'{images}/', **self.test_set}
        dataset = (f'test_dataloader.dataset.{key}={value}' for key, value in values.items())
        return *dataset, *self._truth(images, 1)

    def _truth(self, images: Path, which: int) -> tuple[str, ...]:
        return (f'test_evaluator.ann_file={images}/{self.annotations[which]}',) if self.annotations else ()


BOXES, TEST_BOXES = 'annotations/instances_val.json', 'annotations/instances_test.json'
SHAPES = (make_shapes, make_test_shapes, {'ann_file': TEST_BOXES, 'data_prefix.img': 'test/'}, (BOXES, TEST_BOXES))
DIGITS = (make_digits, make_test_digits, {'data_prefix': 'test'})
DEMO = {
    'mask': Demo('Mask R-CNN Swin-mini', 'shapes', 'mask-rcnn_swin-mini', *SHAPES),
    'cascade': Demo('Cascade Mask R-CNN Swin-mini', 'shapes', 'cascade-mask-rcnn_swin-mini', *SHAPES),
    'deit': Demo('DeiT-mini', 'digits', 'deit-mini', *DIGITS),
    'swin': Demo('Swin-mini', 'digits', 'swin-mini', *DIGITS),
}
TITLES = {name: demo.title for name, demo in DEMO.items()} | IMAGENET


def imagenet_files(name: str) -> tuple[str, str]:
    """Return the config of an ImageNet model, and its checkpoint: timm's own weights."""
    config = f'erq_mm::imagenet/{name}.py'
    return config, f'timm://{load_config(config).model.model_name}'
