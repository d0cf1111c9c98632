"""Mask R-CNN, Swin-T, ERQ W4A8. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 41.0 / 39.2 (scope `all`, float 46.0 / 41.6).

    python tools/test.py configs/swin/mask-rcnn_swin-t_erq-w4a8_coco.py CHECKPOINT
"""

_base_ = './mask-rcnn_swin-t_erq-w4a4_coco.py'
default_hooks = dict(quantization=dict(w_bits=4, a_bits=8))
