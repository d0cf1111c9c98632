"""Compare recipes on a grid of detectors x bits x calibration images x seeds, as tables, plots and one HTML page.

    python tools/benchmark.py configs/benchmark/table4.py configs/benchmark/table5.py --jobs 2 --out docs/results
    python tools/benchmark.py --detectors mask --recipes erq repq --bits W4A4 W3A3 --images 1 16
    python tools/benchmark.py --recipes erq '{"type": "erq", "lam": 0.01, "label": "lam 1 %"}'

Each cell of the grid is one JSON file under --cells. A second call runs only what is missing, Ctrl-C loses at most the
cells in work, and studies share the cells they have in common.

    python tools/benchmark.py latency --help      # how fast models run in every engine
"""

from erq_mm.benchmark.comparing import main

if __name__ == '__main__':
    main(__doc__)
