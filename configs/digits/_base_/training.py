"""Runtime of a classifier, and a schedule from scratch."""

_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['erq_mm.engine', 'erq_mm.engine.classification'], allow_failed_imports=False)

loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)  # of images of no ImageNet
max_iters = 900
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=300)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0, norm_type=2),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=60, end=max_iters, eta_min=1.5e-5),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=1),
)
custom_hooks = [dict(type='ClassCountHook')]
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
randomness = dict(seed=0)
