"""Table 7 of the paper: the number of calibration images. One draw of the images each; more with --seeds 0 1 2.

python tools/benchmark.py configs/benchmark/table7.py --out docs/results
"""

title = 'Number of calibration images (paper: Table 7)'
recipes = ['repq', 'erq']
image = 'published'  # one range for all channels, as in the papers' protocols
images = [1, 4, 16, 64]
baseline = 'repq'
figures = ['curve']
curve = dict(label='calibration images', log=True)
published = 'images'
