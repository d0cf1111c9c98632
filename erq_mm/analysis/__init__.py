"""What a quantization costs and why it works: operations, error ratios, distributions, the proxy, paired intervals."""
