"""``python -m runner.cli``: the program ``rowmill`` from a checkout."""

import sys

from runner.cli import main

if __name__ == "__main__":
    sys.exit(main())
