"""How much of each layer's output error a component removes (ERQ, Figures 5 to 9)."""

import re

import numpy as np

from ...analysis.error_ratios import BASE, COMPONENTS, error_reductions
from ..cells import Cell, Store
from ..detectors import Detector
from ..study import Study, component_cell
from .canvas import COLOURS, new_figure, to_png

KINDS = {  # by the end of a layer's name, mmdet's and timm's; the first that fits
    'patch_embed.proj': 'patch embedding', 'projection': 'patch embedding', 'qkv': 'qkv', 'proj': 'proj',
    'fc1': 'fc1', 'layers.0.0': 'fc1', 'fc2': 'fc2', 'layers.1': 'fc2', 'reduction': 'patch merging',
}  # fmt: skip
OTHER = 'head'
LAYER_NAMES_BELOW = 80  # more names than this would overlap


def error_ratio_figure(study: Study, detector: Detector, store: Store) -> tuple[bytes, str] | None:
    """Return one panel per component, a bar per layer; None while the runs it needs are missing."""
    reports = {c.name: _report(store, component_cell(study, detector, c.options)) for c in COMPONENTS}
    base = _report(store, component_cell(study, detector, BASE))
    if base is None or all(report is None for report in reports.values()):
        return None
    reductions = error_reductions({name: report for name, report in reports.items() if report}, base)
    names = [layer['name'] for layer in base['layers'] if any(layer['name'] in found for found in reductions.values())]
    figure, axes = new_figure(len(reductions), 1, 10, 1.35 * len(reductions) + 2.2, sharex=True)
    for panel, (component, found) in zip(axes[:, 0], reductions.items(), strict=True):
        values = np.array([100 * found.get(name, np.nan) for name in names])
        for index, kind in enumerate(dict.fromkeys(map(_kind, names))):
            chosen = [i for i, name in enumerate(names) if _kind(name) == kind]
            panel.bar(chosen, values[chosen], color=COLOURS[index], width=0.75, label=kind)
        panel.axhline(0, color='#333333', linewidth=0.7)
        panel.set_title(f'{component}: mean reduction {np.nanmean(values):.1f} %', loc='left')
        panel.set_ylabel('reduction, %')
        panel.grid(axis='x', visible=False)
    last = axes[-1, 0]
    last.set_xlim(-0.7, len(names) - 0.3)
    if len(names) <= LAYER_NAMES_BELOW:
        last.set_xticks(range(len(names)), [_short(name) for name in names], rotation=90, fontsize=6)
    last.set_xlabel('layer')
    handles, labels = last.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=len(labels))
    bits = 'W{}A{}'.format(*study.bits[0])
    caption = (
        f'{detector.title}, {bits}, {study.images[0]} calibration image(s): share of the mean squared output error of '
        'each layer that a component removes, on the calibration rows. Aqer: float weights before and after it; the '
        'others: against plain rounding. Below zero: Rounding and Ridge see only the error of the weight, and its sum '
        'with that of the input may grow.'
    )
    return to_png(figure), caption


def _report(store: Store, cell: Cell) -> dict | None:
    result = store.read(cell)
    return result['report'] if result else None


def _kind(name: str) -> str:
    return next((kind for ending, kind in KINDS.items() if name.endswith(ending)), OTHER)


def _short(name: str) -> str:
    """`backbone.stages.2.blocks.1.attn.w_msa.qkv` -> `2.1 qkv`, `roi_head.bbox_head.0.fc_cls` -> `0.fc_cls`."""
    kind = _kind(name)
    if kind == OTHER:
        return '.'.join(word for word in name.split('.') if word not in ('roi_head', 'bbox_head', 'model'))
    place = re.split(r'\.(?:attn|ffn|mlp)\.', name)[0]
    numbers = [word for word in place.split('.') if word.isdigit()]
    return ' '.join(['.'.join(numbers), kind]).strip()
