"""A small Swin of timm's class (windows, shifts, two patch mergings) on the handwritten digits.

python tools/make_digits.py
python tools/train.py configs/digits/swin-mini_digits.py      # about 10 minutes on one core
"""

_base_ = ['./_base_/training.py', './_base_/digits.py']
model = dict(
    type='TimmImageClassifier',
    model_name='swin_tiny_patch4_window7_224',
    img_size=32,
    patch_size=2,
    window_size=4,
    embed_dim=32,
    depths=(2, 2, 2),
    num_heads=(2, 4, 8),
    num_classes=10,
    drop_path_rate=0.0,
    loss=_base_.loss,
    data_preprocessor=_base_.data_preprocessor,
)
