"""Table 5 of the paper: k, the number of roundings flipped at a time, with the paper's own rule. k = 0 flips none.

python tools/benchmark.py configs/benchmark/table5.py --out docs/results
"""

title = 'Flips per iteration of the rounding refinement, k (paper: Table 5)'
recipes = [
    dict(type='erq', rounding=None, label='k = 0', x=0),
    dict(type='erq', rounding='paper', k=1, label='k = 1', x=1),
    dict(type='erq', rounding='paper', k=2, label='k = 2', x=2),
    dict(type='erq', rounding='paper', k=3, label='k = 3', x=3),
]
image = 'published'  # one range for all channels, as in the papers' protocols
baseline = 'k = 0'
figures = ['curve']
curve = dict(label='k, flips per iteration')
published = 'flips'
