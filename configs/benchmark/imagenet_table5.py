"""Table 5 of the paper on ImageNet: k, the number of roundings flipped at a time, on DeiT-S.

python tools/benchmark.py configs/benchmark/imagenet_table5.py                              # needs data/imagenet
"""

_base_ = './table5.py'
detectors = ['deit-s']
images = [32]
