"""`python -m worker`."""

from __future__ import annotations

import sys

from worker.app import main

if __name__ == "__main__":
    sys.exit(main())
