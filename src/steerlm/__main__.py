"""`python -m steerlm` is the command line, where the script `steerlm` is not on the path."""

from __future__ import annotations

import sys

from steerlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
