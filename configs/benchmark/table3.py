"""Table 3 of the paper: all methods, W8A8 and W4A4. 16 calibration images, which the reconstruction methods share.

python tools/benchmark.py configs/benchmark/table3.py --out docs/results
"""

title = 'All methods (paper: Table 3)'
note = 'Every recipe on the same calibration images. The reconstruction methods run their preset "fast".'
recipes = [
    'rtn',
    'fq_vit',
    'ptq4vit',
    'ptq4vit_channelwise',
    'adalog',
    'repq',
    'gptq',
    'erq',
    'erq_tpami',
    dict(type='dopq', reconstruction=False, label='dopq, no reconstruction'),
    dict(type='dopq', preset='fast', label='dopq'),
    dict(type='adaround', preset='fast', label='adaround'),
    dict(type='brecq', preset='fast', label='brecq'),
    dict(type='qdrop', preset='fast', label='qdrop'),
    dict(type='pd_quant', preset='fast', label='pd_quant'),
    dict(type='mgrq', preset='fast', label='mgrq'),
    dict(type='aphq', preset='fast', label='aphq'),
]
image = 'published'  # one range for all channels, as in the papers' protocols
bits = ['W8A8', 'W4A4']
baseline = 'repq'
figures = ['accuracy', 'seconds']
published = 'coco'
