"""Export a quantized model as ONNX graphs with Q/DQ, for OpenVINO, ONNX Runtime and others.

    python tools/quantize.py CONFIG CHECKPOINT --recipe erq_w4a8 --out model.safetensors
    python tools/export.py model.safetensors --out exported

Of a detector: one graph for backbone and neck, and one each for the RPN, box and mask heads (of a cascade: per stage),
for any image size. Of a classifier of timm: one graph, for any number of images. And manifest.json, which says what
every layer became. Proposals, RoIAlign and NMS stay in mmdet:
`tools/test.py CONFIG model.safetensors --backend openvino` evaluates such a detector.
"""

from erq_mm.engine.exporting import main

if __name__ == '__main__':
    main(__doc__)
