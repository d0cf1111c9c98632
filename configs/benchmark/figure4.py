"""Figure 4 of the paper: lambda, the damping of both ridge steps, as a share of the Gram matrix's mean diagonal.

The paper's lambda is absolute, on sums over rows, so its axis cannot be compared with this one.

python tools/benchmark.py configs/benchmark/figure4.py --out docs/results
"""

title = 'Damping of the ridge steps, lambda (paper: Figure 4)'
note = 'Lambda is relative to the mean diagonal of each Gram matrix, so that one value fits all layers.'
recipes = [
    dict(type='erq', lam_mode='relative', lam=lam, label=f'lambda = {lam:g}', x=lam)
    for lam in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
]
image = 'published'  # one range for all channels, as in the papers' protocols
baseline = 'lambda = 0.1'
figures = ['curve']
curve = dict(label='lambda / mean diagonal', log=True)
