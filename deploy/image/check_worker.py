"""Health check of a worker's container: did the database take its sign of life lately?

The worker gives one every few seconds, from a thread, so a busy one is as healthy as an idle one.
"""

import os
import sys
import time
from pathlib import Path

SILENT_SECONDS = 60

age = time.time() - Path(os.environ["PRIVACY_GATEWAY_ALIVE_FILE"]).stat().st_mtime
sys.exit(f"no sign of life for {age:.0f} s" if age > SILENT_SECONDS else 0)
