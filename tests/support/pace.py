"""Blocks that do not depend on how fast this machine is."""

from __future__ import annotations

from jobs.settings import Settings
from worker.pace import Pace


def longest(settings: Settings, _rounds: int) -> Pace:
    """Every block is as long as the settings let it be: five rounds in a market."""
    most = settings.rounds_per_block
    return Pace(most, 3600.0, first=most)
