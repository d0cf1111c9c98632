"""Draw the shapes data set of the demo (1,100 images, under a minute), or a larger test set of other images."""

import argparse
from pathlib import Path

from erq_mm.demo.shapes import make_shapes, make_test_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, nargs='?', help='folder to create (default: data/shapes[-test-N])')
    parser.add_argument('--seed', type=int, default=7)
    parser.add_argument('--test-images', type=int, metavar='N', help='draw N images of the split `test` instead')
    args = parser.parse_args()
    if args.test_images is None:
        make_shapes(args.root or Path('data/shapes'), args.seed)
    else:
        make_test_shapes(args.root or Path(f'data/shapes-test-{args.test_images}'), args.test_images, args.seed)


if __name__ == '__main__':
    main()
