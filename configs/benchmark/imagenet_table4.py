"""Table 4 of the paper on ImageNet: the components of ERQ on DeiT-S, and Figures 5 to 9.

python tools/benchmark.py configs/benchmark/imagenet_table4.py                              # needs data/imagenet
"""

_base_ = './table4.py'
detectors = ['deit-s']
images = [32]
