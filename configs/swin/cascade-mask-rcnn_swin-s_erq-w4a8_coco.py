"""Cascade Mask R-CNN, Swin-S, ERQ W4A8. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 51.3 / 44.5 (scope `all`, float 51.9 / 45.0).

    python tools/test.py configs/swin/cascade-mask-rcnn_swin-s_erq-w4a8_coco.py CHECKPOINT
"""

_base_ = './cascade-mask-rcnn_swin-s_erq-w4a4_coco.py'
default_hooks = dict(quantization=dict(w_bits=4, a_bits=8))
