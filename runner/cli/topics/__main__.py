"""``python -m runner.cli.topics``: the page of all keys, conf/README.md."""

from __future__ import annotations

import sys

from runner.cli.topics import configuration_page

if __name__ == "__main__":
    sys.stdout.write(configuration_page())
