"""Swin-S, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 75.08 (78.12), W4A4 80.74 (81.19),
W5A5 82.44, W6A6 82.86, W4A8 82.24; float 83.23.

    python tools/test.py configs/imagenet/swin-s_erq-w4a4.py timm://swin_small_patch4_window7_224.ms_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./swin-s.py']
default_hooks = dict(quantization=_base_.quantization)
