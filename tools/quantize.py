"""Quantize a detector or classifier and save it as one file, which every tool then loads without calibrating.

    python tools/quantize.py CONFIG CHECKPOINT --recipe erq_w4a4 --out model.safetensors
    python tools/test.py CONFIG model.safetensors

The file holds the codes packed at their bit-width, the config, the class names and the report.
"""

from erq_mm.engine.quantizing import main

if __name__ == '__main__':
    main(__doc__)
