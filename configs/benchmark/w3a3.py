"""Three-bit weights: the methods that need no gradient, W3A3 and W3A4. No published COCO figures exist.

python tools/benchmark.py configs/benchmark/w3a3.py --out docs/results
"""

title = 'Three bits: W3A3 and W3A4'
note = 'No figure for COCO at these bits is published for any method.'
recipes = ['rtn', 'repq', 'gptq', 'erq', 'erq_tpami']
image = 'published'  # one range for all channels, as in the studies of the paper's tables
bits = ['W3A4', 'W3A3']
baseline = 'repq'
