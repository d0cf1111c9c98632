"""DeiT-T, float. ImageNet top-1: not measured by us yet; 72.21 in the tables of the papers.

Checkpoint: timm://deit_tiny_patch16_224.fb_in1k where the network allows it, else the file from
https://huggingface.co/timm/deit_tiny_patch16_224.fb_in1k or
https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth
"""

_base_ = ['../_base_/imagenet.py']
model_name = 'deit_tiny_patch16_224.fb_in1k'

model = dict(model_name=model_name)
pipeline = [
    dict(type='LoadRGBImage'),
    dict(type='TimmPreprocess', model_name=model_name),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
# the paper's damping and its grid of the image, see *_erq-published-w4a4.py
published_recipe = dict(type='erq', lam_mode='sum', lam=1e3, image='published')
