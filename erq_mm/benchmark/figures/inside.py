"""What happens inside layers: the rounding proxy (ERQ, Figure 3) and activations by channel (Figure 2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..detectors import Detector
from .canvas import COLOURS, new_figure, to_png

BANDS = ((0, -1, '#cfe3f1', 'minimum to maximum'), (1, -2, '#7fb8da', '1 to 99 %'), (2, -3, COLOURS[0], 'middle half'))


def proxy_figure(detector: Detector, result: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> tuple[bytes, str]:
    """Return the proxy against the true error of random roundings, a panel per layer."""
    titles = list(result['layers'])
    figure, axes = new_figure(1, len(titles), 3.6 * len(titles), 4.1)
    for panel, title in zip(axes[0], titles, strict=True):
        proxy = arrays[f'{title}|proxy']
        ends = [proxy.min() / 2, proxy.max() * 2]
        panel.plot(ends, ends, color='#333333', linewidth=0.8, label='proxy = error')
        for field, name, colour, marker in (
            ('other_error', 'other images', COLOURS[1], 's'),
            ('calibration_error', 'calibration images', COLOURS[0], 'o'),
        ):
            error = arrays[f'{title}|{field}']
            ratio = np.median(error / proxy)
            panel.plot(proxy, error, marker, color=colour, markersize=2.5, alpha=0.6, label=f'{name} (x {ratio:.2f})')
        panel.set(xscale='log', yscale='log', title=f'{title}\n{result["layers"][title]}')
        panel.title.set_fontsize(8)
        panel.set_xlabel(r'proxy $d(\mu\mu^T+\Sigma)d^T$')
        panel.legend(fontsize=8, loc='upper left')
    axes[0, 0].set_ylabel(r'true error $E\,(d\,x_q)^2$, mean square')
    bits = 'W{}A{}'.format(*result['bits'])
    return to_png(figure), (
        f'{detector.title}, {bits}: Gaussian proxy against the true output error for random output rows and rounding '
        'flips. On the calibration rows both are the same number by algebra; what the proxy can miss is other images '
        f'({result["other_images"]} test images; in brackets the median of error / proxy).'
    )


def distribution_figure(
    detector: Detector, result: Mapping[str, Any], arrays: Mapping[str, NDArray]
) -> tuple[bytes, str]:
    """Return the range of every channel of inputs behind LayerNorms, before and after reparameterization."""
    titles = list(result['layers'])
    figure, axes = new_figure(len(titles), 2, 10, 2.3 * len(titles) + 0.6)
    for line, title in zip(axes, titles, strict=True):
        order = np.argsort(np.ptp(arrays[f'{title}|before'][[0, -1]], axis=0))
        for panel, when in zip(line, ('before', 'after'), strict=True):
            _channels(panel, arrays[f'{title}|{when}'][:, order])
            spread = result['range_spread'][f'{title}|{when}']
            panel.set_title(f'{title}, {when} (largest / median range {spread:.1f})')
            panel.set_xlabel('channel, by its range before reparameterization')
        line[0].set_ylabel('input value')
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(labels))
    layers = ', '.join(f'{title} is {name}' for title, name in result['layers'].items())
    return to_png(figure), (
        f'{detector.title}: inputs behind LayerNorms, channel by channel, on the calibration images; {layers}. One '
        'scale per tensor fits channels of equal range only, which is what RepQ-ViT makes of them.'
    )


def _channels(panel: Any, quantiles: NDArray) -> None:
    """Draw minimum, 1 %, 25 %, 50 %, 75 %, 99 % and maximum of each channel as nested bars."""
    x = np.arange(quantiles.shape[1])
    for low, high, colour, name in BANDS:
        panel.bar(x, quantiles[high] - quantiles[low], 0.9, quantiles[low], color=colour, linewidth=0, label=name)
    panel.plot(x, quantiles[3], '.', color=COLOURS[1], markersize=2.5, label='median')
    panel.set_xlim(-0.5, quantiles.shape[1] - 0.5)
