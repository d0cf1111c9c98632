"""Table 12 of the paper: W4A8.

python tools/benchmark.py configs/benchmark/table12.py --out docs/results
"""

title = 'W4A8 (paper: Table 12)'
recipes = ['rtn', 'repq', 'gptq', 'erq', 'erq_tpami']
image = 'published'  # one range for all channels, as in the papers' protocols
bits = ['W4A8']
baseline = 'repq'
published = 'coco'
