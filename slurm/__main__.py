"""Command line in, jobs, tables and plots out: `python -m slurm submit|sweep|pipeline|again|status|report`."""

import sys

from slurm.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
