"""Table 10 of the paper: size of the quantized weights, and bit operations of one image.

python tools/benchmark.py configs/benchmark/table10.py --out docs/results
"""

title = 'Size and bit operations (paper: Table 10)'
note = (
    'Size: packed codes of the quantized layers, scales not counted, beside the same layers in float32. A '
    'multiply-accumulate of w-bit and a-bit numbers is w * a bit operations; layers left float count 32 * 32. One test '
    'image, all layers of the detector, mask head included.'
)
recipes = ['erq']
image = 'published'  # one range for all channels, as in the papers' protocols
bits = ['W8A8', 'W6A6', 'W4A8', 'W4A4', 'W3A3']
scopes = ['linears', 'all']
columns = ['size', 'operations', 'box', 'mask']
figures = []
analyses = ['operations']
