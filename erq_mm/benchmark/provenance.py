"""Where a figure comes from: machine, commit, versions, threads."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..engine.versions import stack_versions

PACKAGE = Path(__file__).parent.parent
NUMERIC_FOLDERS = ('core', 'nn', 'calibration', 'engine')  # what decides a result; plots and tables do not


def provenance(jobs: int) -> dict[str, Any]:
    """Return what a reader needs to judge a figure; `jobs` is the number of cells that ran side by side."""
    return {
        'machine': machine(),
        'commit': commit(),
        'code': code_digest(),
        'versions': stack_versions(),
        'threads': torch.get_num_threads(),
        'jobs': jobs,
    }


def machine() -> dict[str, Any]:
    """Return processor, its cores available to this process, memory in GB and system."""
    return {
        'processor': _processor(),
        'cores': available_cores(),
        'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1),
        'system': f'{platform.system()} {platform.machine()}, Python {platform.python_version()}',
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
    }


def available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _processor() -> str:
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or 'unknown'


def commit(folder: Path = PACKAGE) -> str:
    """Return the short commit of the code, '+dirty' if its files differ from it, 'unknown' without git."""
    head = _git(folder, 'rev-parse', '--short=8', 'HEAD')
    if head is None:
        return 'unknown'
    changed = _git(folder, 'status', '--porcelain', '--', '.')
    return head + ('+dirty' if changed else '')


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(['git', '-C', str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@cache
def code_digest() -> str:
    """Return a fingerprint of the source files that decide results, to tell cells of other code apart."""
    digest = hashlib.sha256()
    for folder in NUMERIC_FOLDERS:
        for path in sorted((PACKAGE / folder).rglob('*.py')):
            digest.update(str(path.relative_to(PACKAGE)).encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()[:12]
