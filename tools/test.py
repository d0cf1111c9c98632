"""Evaluate a detector or a classifier, quantized if the config has an ERQHook or --recipe is given.

Takes every argument of mmdet's own tools/test.py. Without a recipe it is exactly mmdet's evaluation.

    python tools/test.py configs/swin/mask-rcnn_swin-t_erq-w4a4_coco.py CHECKPOINT
    python tools/test.py mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py CHECKPOINT --recipe erq_w4a4
    python tools/test.py configs/imagenet/deit-s_erq-w4a4.py timm://deit_small_patch16_224
    python tools/test.py CONFIG CHECKPOINT --recipe erq_w8a8_deploy --backend int8      # as integers, on the CPU
"""

from erq_mm.engine.evaluation import main

if __name__ == '__main__':
    main(__doc__)
