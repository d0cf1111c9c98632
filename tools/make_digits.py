"""Draw the handwritten digits of the classification demo (5,397 images, a few seconds), or a larger test set."""

import argparse
from pathlib import Path

from erq_mm.demo.digits import make_digits, make_test_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, nargs='?', help='folder to create (default: data/digits[-test-N])')
    parser.add_argument('--seed', type=int, default=7)
    parser.add_argument('--test-images', type=int, metavar='N', help='draw N other images of the val digits instead')
    args = parser.parse_args()
    if args.test_images is None:
        make_digits(args.root or Path('data/digits'), args.seed)
    else:
        make_test_digits(args.root or Path(f'data/digits-test-{args.test_images}'), args.test_images, args.seed)


if __name__ == '__main__':
    main()
