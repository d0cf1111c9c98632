"""Table 4 of the paper on the demo detector: rounding refinement alone. The base row is --recipe repq.

python tools/test.py configs/ablation/mask-rcnn_swin-mini_rounding.py configs/shapes/checkpoints/mask-rcnn_swin-mini.pth
"""

_base_ = ['../shapes/mask-rcnn_swin-mini_shapes.py']
default_hooks = dict(
    quantization=dict(type='ERQHook', recipe=dict(type='erq', aqer=False, ridge=False), w_bits=4, a_bits=4)
)
