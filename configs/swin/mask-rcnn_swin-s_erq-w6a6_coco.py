"""Mask R-CNN, Swin-S, ERQ W6A6. COCO val2017 box AP / mask AP: not measured by us yet.

No ERQ figure is published for these bits.

    python tools/test.py configs/swin/mask-rcnn_swin-s_erq-w6a6_coco.py CHECKPOINT
"""

_base_ = './mask-rcnn_swin-s_erq-w4a4_coco.py'
default_hooks = dict(quantization=dict(w_bits=6, a_bits=6))
