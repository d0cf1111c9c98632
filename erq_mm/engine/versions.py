"""Check the OpenMMLab stack when the plugin is imported, so that a broken one is one sentence and not a traceback."""

import importlib
import importlib.util
import traceback
from importlib.metadata import PackageNotFoundError, version

# import name -> distributions that provide it (the onedl forks keep the import names)
DISTRIBUTIONS = {
    'mmengine': ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
    'mmcv': ('mmcv', 'onedl-mmcv', 'mmcv-lite'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'torch': ('torch',),
    'torchvision': ('torchvision',),
}
OPTIONAL = ('timm', 'mmpretrain')  # of classifiers
TESTED = 'torch 2.13.0, mmengine 0.10.7, mmcv 2.1.0, mmdet 3.3.0'
REPAIR = {
    'mmengine': "pip install 'mmengine==0.10.7'",
    'mmcv': (
        "pip uninstall -y mmcv mmcv-lite && pip install 'setuptools<82' ninja psutil && "
        "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary mmcv 'mmcv==2.1.0'"
    ),
    'mmdet': "pip install 'mmdet==3.3.0'",
    'mmpretrain': (
        'pip uninstall -y mmpretrain  (only classifiers need it, and mmdet imports what it finds; '
        'mmpretrain 1.2.0 fails beside transformers 4.57 and 5: for classifiers uninstall transformers instead)'
    ),
    'torchvision': 'pip uninstall -y torchvision  (detectors do not need it; timm needs the one built for this torch)',
    'pkg_resources': "pip install 'setuptools<82'",
}


def installed_version(name: str) -> str:
    """Return the version of an importable package, or 'not installed'."""
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return 'not installed'


def stack_versions() -> dict[str, str]:
    """Return the versions a report should carry."""
    optional = {name: installed_version(name) for name in OPTIONAL if importlib.util.find_spec(name) is not None}
    return {name: installed_version(name) for name in DISTRIBUTIONS} | optional


def check_stack() -> None:
    """Import what the plugin stands on.

    Raises:
        ImportError: one message with the versions found, the versions tested, what failed and the command that repairs
            it.
    """
    if importlib.util.find_spec('torchvision') is not None:
        _try_import('torchvision', 'torchvision')  # mmengine's Runner imports it for its environment report
    _try_import('mmengine', 'mmengine.runner')
    if importlib.util.find_spec('pkg_resources') is None and installed_version('mmengine') == '0.10.7':
        raise ImportError(
            _message('pkg_resources', 'setuptools >= 82 removed it, and mmengine 0.10.7 resolves mmdet:: with it')
        )
    _try_import('mmcv', 'mmcv.ops')
    _try_import('mmdet', 'mmdet.models')


def _try_import(name: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except (
        Exception
    ) as error:  # whatever a broken binary package raises: ImportError, OSError, RuntimeError, AssertionError
        reason = f'{type(error).__name__}: {error}'
        raise ImportError(_message(_culprit(name, error), reason)) from None


def _culprit(name: str, error: Exception) -> str:
    """Return the package to repair: the innermost one in the traceback that we know, as mmdet imports mmpretrain."""
    if name == 'mmdet' and 'mmcv' in str(error).lower():
        return 'mmcv'
    modules = [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [module.partition('.')[0] for module in modules]
    return next((package for package in reversed(packages) if package in REPAIR), name)


def _message(culprit: str, reason: str) -> str:
    found = ', '.join(f'{name} {found_version}' for name, found_version in stack_versions().items())
    return (
        f'erq_mm cannot use the installed {culprit} ({reason}).\n'
        f'  found:  {found}\n  tested: {TESTED}\n  repair: {REPAIR[culprit]}'
    )
