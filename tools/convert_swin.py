"""Convert a detection checkpoint of the original Swin release to mmdet 3.x.

python tools/convert_swin.py cascade_mask_rcnn_swin_tiny_patch4_window7.pth checkpoints/cascade_swin-t.pth
"""

import argparse
import os
from pathlib import Path

import torch

import erq_mm.engine  # noqa: F401  lets training checkpoints load with torch's safety check on
from erq_mm.engine.swin_converter import convert_swin_release


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='checkpoint of the Swin release')
    parser.add_argument('target', type=Path, help='file to write')
    args = parser.parse_args()
    checkpoint = torch.load(args.source, map_location='cpu', weights_only=True)
    state = convert_swin_release(checkpoint.get('state_dict', checkpoint))
    args.target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.target.with_suffix('.unfinished')
    torch.save({'state_dict': state, 'meta': {}}, unfinished)
    os.replace(unfinished, args.target)
    print(f'{len(state)} tensors -> {args.target}')


if __name__ == '__main__':
    main()
