"""Three bits on ImageNet: W3A3, of which ERQ's papers give nothing and later ones much.

python tools/benchmark.py configs/benchmark/imagenet_w3a3.py                                # needs data/imagenet
"""

_base_ = './imagenet_table2.py'
title = 'All methods on ImageNet, W3A3'
bits = ['W3A3']
