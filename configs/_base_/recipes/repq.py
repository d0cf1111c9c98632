"""RepQ-ViT W4A4."""

_base_ = './erq.py'
quantization = dict(recipe='repq')
