"""ImageNet-1k for classifiers of timm: data, metric and runtime.

    data/imagenet/val/       1,000 class folders, or flat with data/imagenet/meta/val.txt
    data/imagenet/train/     calibration images, in any folders; who has only val calibrates on that:
                             --cfg-options default_hooks.quantization.calibration.split=val

A model's config names it twice, as `configs/imagenet/deit-s.py` does: the network, and whose preprocessing.
"""

_base_ = ['./recipes/erq.py']
custom_imports = dict(imports=['erq_mm.engine', 'erq_mm.engine.classification'])
quantization = dict(calibration=dict(num_images=32))  # of the configs that quantize: as in the papers
default_scope = 'mmpretrain'
data_root = 'data/imagenet/'

model = dict(type='TimmImageClassifier')
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ImageFolder', data_root=data_root, data_prefix='train', with_label=False, pipeline=[]),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ImageNetFolder', data_root=data_root, split='val'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='TopKAccuracy', topk=(1, 5))
test_evaluator = val_evaluator
# nothing is trained here: mmengine wants both beside a train_dataloader
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-5))
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    visualization=dict(type='VisualizationHook', enable=False),
)
custom_hooks = [dict(type='ClassCountHook')]
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork'), dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False
# the papers' damping, of which DeiT-T has its own, and their grid of the image
published_recipe = dict(type='erq', lam_mode='sum', lam=1e4, image='published')
