"""Round to nearest on minimum-maximum ranges W4A4."""

_base_ = './erq.py'
quantization = dict(recipe='rtn')
