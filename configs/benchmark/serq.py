"""The project's own recipe, and its parts one by one.

python tools/benchmark.py configs/benchmark/serq.py --out docs/results
"""

title = 'Sequential error reduction and its parts'
note = (
    'Every row below `serq` leaves one part out, the last one adds to it. AP on 160 images does not resolve them; the '
    'unexplained variance does.'
)
detectors = ['mask']
recipes = [
    'repq',
    'erq',
    dict(type='erq', inputs='quantized', label='erq, sequential inputs'),
    'serq',
    dict(type='serq', weight_levels=False, label='evenly spaced weights'),
    dict(type='serq', grids='uniform', label='evenly spaced levels'),
    dict(type='serq', dealing=False, label='units not dealt'),
    dict(type='serq', grids='published', label='grids of ERQ'),
    dict(type='serq', correct=False, label='codes only'),
    dict(type='serq', token_weights=False, label='all tokens alike'),
    dict(type='serq', region_weights=False, label='all regions alike'),
    dict(type='serq', mixed_regions=0, label='no mixed regions'),
    dict(type='serq', residual_target=False, label='without the stream'),
    dict(type='serq', margin=1.0, label='ranges not widened'),
    dict(type='serq', balance=False, label='channels not balanced'),
    dict(type='serq', damping=0.003, label='one damping for all layers'),
    'serq_tuned',
]
bits = ['W4A4', 'W3A3']
baseline = 'erq'
columns = ['box', 'mask', 'box_difference', 'fidelity', 'fidelity_share', 'seconds', 'memory']
