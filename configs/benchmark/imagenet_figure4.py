"""Figure 4 of the paper on ImageNet: lambda as published, on sums over all rows of 32 images.

The paper takes 1e4, for DeiT-T 1e3. Our default is relative to each Gram matrix's mean diagonal: figure4.py.

python tools/benchmark.py configs/benchmark/imagenet_figure4.py                             # needs data/imagenet
"""

title = 'Damping of the ridge steps on ImageNet, lambda (paper: Figure 4)'
note = 'Lambda is added to Gram matrices that are sums over all rows, as in the paper: the share differs by layer.'
detectors = ['deit-t', 'deit-s', 'swin-s']
recipes = [
    dict(type='erq', lam_mode='sum', lam=lam, label=f'lambda = {lam:g}', x=lam)
    for lam in (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
]
image = 'published'  # one range for all channels, as in the papers' protocols
images = [32]
baseline = 'lambda = 10000'
figures = ['curve']
curve = dict(label='lambda on sums', log=True)
