"""The handwritten digits: `tools/make_digits.py` draws them, `make demo-classification` does so by itself."""

data_root = 'data/digits/'
dataset = dict(type='ImageFolder', data_root=data_root)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        **dataset,
        data_prefix='train',
        pipeline=[
            dict(type='LoadRGBImage'),
            dict(type='RandomCrop', crop_size=32, padding=2, padding_mode='edge'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**dataset, data_prefix='val', pipeline=[dict(type='LoadRGBImage'), dict(type='PackInputs')]),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='TopKAccuracy', topk=(1,))
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
