"""Health check of the gateway's container: does the process answer? Ready is another question."""

import os
import urllib.request

port = os.environ.get("PRIVACY_GATEWAY_PORT", "8081")
with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=4):
    pass
