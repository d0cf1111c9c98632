"""ViT-B, ERQ W4A4. ImageNet top-1: not measured by us yet.

Published by the ERQ paper, in brackets its extension: W3A4 53.88 (72.37), W4A4 76.63 (78.65),
W5A5 82.81, W6A6 83.89, W4A8 81.98; float 84.54.

    python tools/test.py configs/imagenet/vit-b_erq-w4a4.py timm://vit_base_patch16_224.augreg_in21k_ft_in1k
    ... --recipe erq_w3a4    # other bits, and any other recipe
"""

_base_ = ['./vit-b.py']
default_hooks = dict(quantization=_base_.quantization)
