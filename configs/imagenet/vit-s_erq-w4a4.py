"""ViT-S, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 45.68 (60.13), W4A4 68.91 (71.61),
W5A5 78.83, W6A6 80.48, W4A8 77.84; float 81.39.

    python tools/test.py configs/imagenet/vit-s_erq-w4a4.py timm://vit_small_patch16_224.augreg_in21k_ft_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./vit-s.py']
default_hooks = dict(quantization=_base_.quantization)
