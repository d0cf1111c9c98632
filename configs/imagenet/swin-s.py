"""Swin-S, float. ImageNet top-1: not measured by us yet; 83.23 in the tables of the papers.

Checkpoint: timm://swin_small_patch4_window7_224.ms_in1k where the network allows it, else the file from
https://huggingface.co/timm/swin_small_patch4_window7_224.ms_in1k or
https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth
"""

_base_ = ['../_base_/imagenet.py']
model_name = 'swin_small_patch4_window7_224.ms_in1k'

model = dict(model_name=model_name)
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name=model_name),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
