"""Runs the command line as ``python -m dicenas``."""

from __future__ import annotations

import sys

from dicenas.cli import main

if __name__ == "__main__":
    sys.exit(main())
