"""What a quantization costs and why it works: operations, error ratios per layer, distributions, the proxy."""
