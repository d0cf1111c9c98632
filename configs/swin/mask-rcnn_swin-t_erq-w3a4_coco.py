"""Mask R-CNN, Swin-T, ERQ W3A4. COCO val2017 box AP / mask AP: not measured by us yet.

No ERQ figure is published for these bits.

    python tools/test.py configs/swin/mask-rcnn_swin-t_erq-w3a4_coco.py CHECKPOINT
"""

_base_ = './mask-rcnn_swin-t_erq-w4a4_coco.py'
default_hooks = dict(quantization=dict(w_bits=3, a_bits=4))
