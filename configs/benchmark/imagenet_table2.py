"""Table 2 of the paper on ImageNet: all methods, W3A4, W4A4 and W5A5, 32 calibration images.

python tools/benchmark.py configs/benchmark/imagenet_table2.py                              # needs data/imagenet
python tools/benchmark.py configs/benchmark/imagenet_table2.py --detectors deit swin        # the demo's digits
"""

_base_ = './table3.py'
title = 'All methods on ImageNet (paper: Table 2)'
note = 'Top-1 accuracy. Every recipe on the same calibration images. The methods that train run their preset "fast".'
detectors = ['vit-s', 'vit-b', 'deit-t', 'deit-s', 'deit-b', 'swin-s', 'swin-b']
bits = ['W3A4', 'W4A4', 'W5A5']
images = [32]
published = 'imagenet'
