"""What the gateway says of weights that were uploaded to begin a job with.

This vocabulary must never carry the weights themselves.
"""

from __future__ import annotations

from privacy_gateway.schemas import View


class WeightsView(View):
    """Uploaded weights; `id` follows from their digest, `shapes` are in the model's order."""

    id: str
    sha256: str
    parameters: int
    shapes: list[list[int]]
    size_bytes: int
    created_at: str
