"""Quantization numerics in plain torch: frozen specs and tensors in, tensors out."""
