"""DeiT-S, float. timm's deit_small_patch16_224.fb_in1k: 79.85 top-1 (timm's results table).

Checkpoint: timm://deit_small_patch16_224.fb_in1k where the network allows it, else the file from
https://huggingface.co/timm/deit_small_patch16_224.fb_in1k or
https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth
"""

_base_ = ['../_base_/imagenet.py']
model_name = 'deit_small_patch16_224.fb_in1k'

model = dict(model_name=model_name)
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name=model_name),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
