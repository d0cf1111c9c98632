"""Calibration from the first layer to the last: every layer is fitted on what the layers before it, quantized, give."""
