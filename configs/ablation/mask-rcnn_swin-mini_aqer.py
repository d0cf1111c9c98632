"""Table 4 of the paper on the demo detector: Aqer alone. The base row is --recipe repq.

python tools/test.py configs/ablation/mask-rcnn_swin-mini_aqer.py configs/shapes/checkpoints/mask-rcnn_swin-mini.pth
"""

_base_ = ['../shapes/mask-rcnn_swin-mini_shapes.py']
default_hooks = dict(
    quantization=dict(type='ERQHook', recipe=dict(type='erq', ridge=False, rounding=None), w_bits=4, a_bits=4)
)
