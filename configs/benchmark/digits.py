"""The demo's classifiers at three bits, on ten further drawings of each of the 597 digits that nobody trained on.

python tools/benchmark.py configs/benchmark/digits.py          # 20 minutes on one core
"""

title = 'Classifiers on handwritten digits, W3A4 and W3A3'
note = (
    'Top-1 accuracy on 5,970 drawings of 597 digits: on one drawing of each, half a point is three images. '
    'The damping of `erq` is that of the demo, chosen on the digits of train.'
)
detectors = ['deit', 'swin']
recipes = ['rtn', 'repq', dict(type='erq', lam=1.0, label='erq'), dict(type='erq', label='erq, lam 0.1'), 'serq']
bits = ['W3A4', 'W3A3']
images = [32]
seeds = [0, 1, 2]
test_images = 5970
baseline = 'repq'
