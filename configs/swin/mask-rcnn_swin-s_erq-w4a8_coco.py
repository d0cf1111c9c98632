"""Mask R-CNN, Swin-S, ERQ W4A8. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 46.1 / 42.2 (scope `all`, float 48.5 / 43.3).

    python tools/test.py configs/swin/mask-rcnn_swin-s_erq-w4a8_coco.py CHECKPOINT
"""

_base_ = './mask-rcnn_swin-s_erq-w4a4_coco.py'
default_hooks = dict(quantization=dict(w_bits=4, a_bits=8))
