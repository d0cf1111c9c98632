"""Table 6 of the paper on ImageNet: all methods, W6A6.

python tools/benchmark.py configs/benchmark/imagenet_table6.py                              # needs data/imagenet
"""

_base_ = './imagenet_table2.py'
title = 'All methods on ImageNet, W6A6 (paper: Table 6)'
bits = ['W6A6']
