"""DeiT-S, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 57.63 (69.09), W4A4 72.56 (74.35),
W5A5 77.58, W6A6 79.03, W4A8 77.53; float 79.85.

    python tools/test.py configs/imagenet/deit-s_erq-w4a4.py timm://deit_small_patch16_224.fb_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./deit-s.py']
default_hooks = dict(quantization=_base_.quantization)
