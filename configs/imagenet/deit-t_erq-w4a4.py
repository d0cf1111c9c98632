"""DeiT-T, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 44.09 (52.73), W4A4 60.29 (61.79),
W5A5 69.42, W6A6 71.14, W4A8 68.31; float 72.21.

    python tools/test.py configs/imagenet/deit-t_erq-w4a4.py timm://deit_tiny_patch16_224.fb_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./deit-t.py']
default_hooks = dict(quantization=_base_.quantization)
