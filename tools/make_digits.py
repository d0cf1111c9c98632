"""Draw the handwritten digits of the classification demo (5,397 images, a few seconds)."""

import argparse
from pathlib import Path

from erq_mm.demo.digits import make_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, nargs='?', default=Path('data/digits'), help='folder to create')
    parser.add_argument('--seed', type=int, default=7)
    args = parser.parse_args()
    make_digits(args.root, seed=args.seed)


if __name__ == '__main__':
    main()
