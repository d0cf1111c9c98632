"""Table 7 of the paper on ImageNet: the number of calibration images, on DeiT-S.

python tools/benchmark.py configs/benchmark/imagenet_table7.py                              # needs data/imagenet
"""

_base_ = './table7.py'
detectors = ['deit-s']
images = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
