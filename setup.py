"""Package metadata. torch, mmcv and mmdet are checked on import of the plugin, not pinned (docs/installation.md)."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'erq_mm/__init__.py').read_text()).group(1)


class BuildWithConfigs(build_py):
    """Puts the configs into a wheel where mmengine looks for those of a package, without the demo's checkpoints."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a clone has them beside the package
            mim = Path(self.build_lib) / 'erq_mm/.mim'
            shutil.rmtree(mim, ignore_errors=True)
            shutil.copytree(
                ROOT / 'configs', mim / 'configs', ignore=shutil.ignore_patterns('checkpoints', '__pycache__')
            )
            (mim / 'model-index.yml').write_text('Import: []\n')  # mmengine reads it first


TIMM = ['timm>=1.0.15', 'mmpretrain>=1.2.0,<1.3', 'torchvision']

setup(
    cmdclass={'build_py': BuildWithConfigs},
    name='erq_mm',
    version=VERSION,
    description='Post-training quantization of Swin detectors for mmdet 3.x',
    packages=find_packages(include=['erq_mm', 'erq_mm.*']),
    package_data={'erq_mm.benchmark.published': ['*.json']},
    python_requires='>=3.10',
    install_requires=['torch>=2.0', 'numpy', 'rich', 'safetensors>=0.4', 'greenlet>=3.0'],
    extras_require={
        'mm': ['mmengine>=0.10.4,<1.0', 'mmcv>=2.0.0,<2.2.0', 'mmdet>=3.3.0,<3.4'],
        # the tested versions are in requirements/timm.txt and requirements/export.txt
        'timm': TIMM,
        'demo-classification': [*TIMM, 'scikit-learn'],
        'onnx': ['onnx'],
        'openvino': ['onnx', 'openvino'],
        'onnxruntime': ['onnx', 'onnxruntime'],
        'deploy': ['onnx', 'openvino', 'onnxruntime'],
    },
    entry_points={'console_scripts': ['erq-mm = erq_mm.cli:main']},
)
