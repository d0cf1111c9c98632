"""Is it the method or the calibration images? W4A4 on three choices of 16 images, averaged. Not in the paper.

python tools/benchmark.py configs/benchmark/seeds.py --out docs/results
"""

title = 'Three choices of calibration images'
note = 'Seeds 0, 1 and 2 of the choice; AP and differences are means over the three.'
detectors = ['mask']
recipes = [
    'rtn',
    'repq',
    'gptq',
    'erq',
    'erq_tpami',
    dict(type='dopq', preset='fast', label='dopq'),
    dict(type='adaround', preset='fast', label='adaround'),
    dict(type='brecq', preset='fast', label='brecq'),
    dict(type='qdrop', preset='fast', label='qdrop'),
    dict(type='pd_quant', preset='fast', label='pd_quant'),
    dict(type='mgrq', preset='fast', label='mgrq'),
    dict(type='aphq', preset='fast', label='aphq'),
]
image = 'published'  # one range for all channels, as in the studies of the paper's tables
seeds = [0, 1, 2]
baseline = 'repq'
