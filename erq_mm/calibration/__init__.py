"""The calibration pipeline: recipes are data, steps are functions, the pipeline is the paper's algorithm box."""
