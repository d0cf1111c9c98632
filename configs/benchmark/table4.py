"""Table 4 of the paper: the components of ERQ, and Figures 5 to 9: what each removes of every layer's output error.

python tools/benchmark.py configs/benchmark/table4.py --out docs/results
"""

title = 'Components of ERQ (paper: Table 4, Figures 5 to 9)'
note = 'The base is RepQ-ViT: its quantizers and plain rounding.'
recipes = [
    dict(type='erq', aqer=False, ridge=False, rounding=None, label='base'),
    dict(type='erq', ridge=False, rounding=None, label='Aqer'),
    dict(type='erq', aqer=False, ridge=False, label='Rounding'),
    dict(type='erq', aqer=False, rounding=None, label='Ridge'),
    dict(type='erq', aqer=False, label='Rounding + Ridge'),
    dict(type='erq', ridge=False, label='Aqer + Rounding'),
    dict(type='erq', rounding=None, label='Aqer + Ridge'),
    dict(type='erq', label='all (ERQ)'),
]
image = 'published'  # one range for all channels, as in the papers' protocols
baseline = 'base'
figures = ['accuracy', 'error_ratios']
published = 'components'
