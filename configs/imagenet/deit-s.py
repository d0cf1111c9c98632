"""DeiT-S, float. ImageNet top-1: not measured by us yet; 79.85 in the tables of the papers.

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
