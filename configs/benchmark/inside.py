"""Figures 2 and 3 of the paper: activations by channel, and the rounding proxy against the true error.

python tools/benchmark.py configs/benchmark/inside.py --out docs/results
"""

title = 'Activations by channel and the rounding proxy (paper: Figures 2 and 3)'
images = [1]  # as the paper calibrates detectors
analyses = ['distributions', 'proxy']
figures = []
