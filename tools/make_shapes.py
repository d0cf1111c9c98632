"""Draw the shapes data set of the demo (1,100 images, under a minute)."""

import argparse
from pathlib import Path

from erq_mm.demo.shapes import make_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, nargs='?', default=Path('data/shapes'), help='folder to create')
    parser.add_argument('--seed', type=int, default=7)
    args = parser.parse_args()
    make_shapes(args.root, seed=args.seed)


if __name__ == '__main__':
    main()
