"""DeiT-S, ERQ W4A4. ImageNet top-1: not measured by us yet.

python tools/test.py configs/imagenet/deit-s_erq-w4a4.py timm://deit_small_patch16_224.fb_in1k
"""

_base_ = ['./deit-s.py']
default_hooks = dict(quantization=_base_.quantization)
