"""DeiT-B, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 70.33 (76.47), W4A4 78.23 (79.18),
W5A5 80.65, W6A6 81.41, W4A8 80.22; float 81.80.

    python tools/test.py configs/imagenet/deit-b_erq-w4a4.py timm://deit_base_patch16_224.fb_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./deit-b.py']
default_hooks = dict(quantization=_base_.quantization)
