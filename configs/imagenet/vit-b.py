"""ViT-B, float. ImageNet top-1: not measured by us yet; 84.54 in the tables of the papers.

Checkpoint: timm://vit_base_patch16_224.augreg_in21k_ft_in1k where the network allows it, else the file from
https://huggingface.co/timm/vit_base_patch16_224.augreg_in21k_ft_in1k
"""

_base_ = ['../_base_/imagenet.py']
model_name = 'vit_base_patch16_224.augreg_in21k_ft_in1k'

model = dict(model_name=model_name)
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name=model_name),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
