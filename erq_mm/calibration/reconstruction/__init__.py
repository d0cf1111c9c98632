"""Reconstruction: train roundings and scales of one unit of the model after the other against the float model."""
