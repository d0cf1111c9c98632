"""Swin-B, float. ImageNet top-1: not measured by us yet; 85.27 in the tables of the papers.

Checkpoint: timm://swin_base_patch4_window7_224.ms_in22k_ft_in1k where the network allows it, else the file from
https://huggingface.co/timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k or
https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22kto1k.pth
"""

_base_ = ['../_base_/imagenet.py']
model_name = 'swin_base_patch4_window7_224.ms_in22k_ft_in1k'

model = dict(model_name=model_name)
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name=model_name),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
