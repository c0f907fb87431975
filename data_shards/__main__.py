"""Command line in, shards or what they hold out: `python -m data_shards drivelm|conversations|synthetic|index|...`."""

import sys

from data_shards.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
