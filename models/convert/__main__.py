"""Command line in, a converted checkpoint out: `python -m models.convert SRC DST [--to opengvlab]`."""

import sys

from models.convert.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
