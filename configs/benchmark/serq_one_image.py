"""What `serq` makes of one image: its copies, and its parts that depend on how many rows there are.

python tools/benchmark.py configs/benchmark/serq_one_image.py --out docs/results
"""

title = 'Sequential error reduction with one image'
note = (
    'Seeds 0, 1 and 2 of the choice; AP and unexplained variance are means over the three. Every row below `serq` '
    'leaves one part out.'
)
detectors = ['mask']
recipes = [
    'repq',
    'erq',
    'serq',
    dict(type='serq', views=1, label='no copies'),
    dict(type='serq', margin=1.1, label='margin of many images'),
    dict(type='serq', damping=0.003, label='one damping for all layers'),
    dict(type='serq', correct=False, label='codes only'),
]
images = [1]
seeds = [0, 1, 2]
baseline = 'erq'
columns = ['box', 'mask', 'box_difference', 'fidelity', 'fidelity_share', 'seconds', 'memory']
