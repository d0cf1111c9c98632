"""Swin-B, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 75.78 (79.98), W4A4 82.44 (83.32),
W5A5 84.50, W6A6 85.02, W4A8 84.23; float 85.27.

    python tools/test.py configs/imagenet/swin-b_erq-w4a4.py timm://swin_base_patch4_window7_224.ms_in22k_ft_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./swin-b.py']
default_hooks = dict(quantization=_base_.quantization)
