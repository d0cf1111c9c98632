"""Table 8 of the paper: seconds of calibration. The cells are those of table3.py; measure them with --jobs 1.

python tools/benchmark.py configs/benchmark/table8.py --out docs/results
"""

_base_ = './table3.py'
title = 'Calibration time (paper: Table 8)'
note = 'Reconstruction methods run their preset "fast": a fraction of the published iterations.'
bits = ['W4A4']
columns = ['seconds', 'memory', 'box', 'mask']
figures = ['seconds']
published = 'minutes'
