"""A small DeiT of timm's class on the handwritten digits.

python tools/make_digits.py
python tools/train.py configs/digits/deit-mini_digits.py      # about 10 minutes on one core
"""

_base_ = ['./_base_/training.py', './_base_/digits.py']
model = dict(
    type='TimmImageClassifier',
    model_name='deit_tiny_patch16_224',
    img_size=32,
    patch_size=8,
    embed_dim=96,
    depth=6,
    num_heads=3,
    num_classes=10,
    loss=_base_.loss,
    data_preprocessor=_base_.data_preprocessor,
)
max_iters = 2000  # an iteration takes less than half of Swin's
train_cfg = dict(max_iters=max_iters, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=60, end=max_iters, eta_min=1.5e-5),
]
