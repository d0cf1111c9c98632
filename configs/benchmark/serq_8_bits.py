"""What `serq` brings where rounding is fine, and what clipping costs there.

python tools/benchmark.py configs/benchmark/serq_8_bits.py --out docs/results
"""

title = 'Sequential error reduction at 8 bits'
note = 'AP does not tell these rows apart; the unexplained variance does.'
detectors = ['mask', 'cascade']
recipes = [
    'repq',
    'erq',
    'serq',
    dict(type='serq', reach=0.0, label='no common reach'),
    dict(type='serq', margin=1.0, label='ranges not widened'),
]
bits = ['W8A8']
baseline = 'erq'
columns = ['box', 'mask', 'box_difference', 'fidelity', 'fidelity_share', 'seconds', 'memory']
