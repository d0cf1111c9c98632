"""DeiT-B, float. ImageNet top-1: not measured by us yet; 81.80 in the tables of the papers.

Checkpoint: timm://deit_base_patch16_224.fb_in1k where the network allows it, else the file from
https://huggingface.co/timm/deit_base_patch16_224.fb_in1k or
https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth
"""

_base_ = ['../_base_/imagenet.py']
model_name = 'deit_base_patch16_224.fb_in1k'

model = dict(model_name=model_name)
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name=model_name),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
