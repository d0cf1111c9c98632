"""Table 8 of the paper on ImageNet: time of calibration on DeiT-S. The cells are those of imagenet_table2.py.

python tools/benchmark.py configs/benchmark/imagenet_table8.py                              # needs data/imagenet
"""

_base_ = './table8.py'
detectors = ['deit-s']
images = [32]
columns = ['seconds', 'memory', 'top1']
