"""Swin-S, ERQ W4A4 with the published damping: lambda 1e4 on sums over all rows, for every layer, image as published.

... --cfg-options default_hooks.quantization.w_bits=3 default_hooks.quantization.a_bits=4    # other bits
"""

_base_ = ['./swin-s.py']
default_hooks = dict(quantization=dict(_base_.quantization, recipe=_base_.published_recipe))
