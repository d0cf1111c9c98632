"""Table 11 of the paper on ImageNet: W4A8.

python tools/benchmark.py configs/benchmark/imagenet_table11.py                             # needs data/imagenet
"""

_base_ = './table12.py'
title = 'W4A8 on ImageNet (paper: Table 11)'
detectors = ['vit-s', 'vit-b', 'deit-t', 'deit-s', 'deit-b', 'swin-s', 'swin-b']
images = [32]
published = 'imagenet'
