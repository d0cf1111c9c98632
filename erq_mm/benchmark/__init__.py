"""Grids of detectors x recipes x bits x images x seeds: run what is missing, compare, plot (tools/benchmark.py)."""
