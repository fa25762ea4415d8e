"""Time as the rest of the house sees it: injected, UTC, whole microseconds.

Nothing outside this module may call `datetime.now`; a function that needs the time is given it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

Clock = Callable[[], datetime]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """The system clock, timezone-aware."""
    return datetime.now(UTC)


@lru_cache(maxsize=1024)
def micros(moment: datetime) -> int:
    """Whole microseconds since 1970-01-01 UTC, exact; the stored form on both databases."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no place here")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


@lru_cache(maxsize=1024)
def from_micros(value: int) -> datetime:
    """Inverse of `micros`."""
    seconds, rest = divmod(value, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


@lru_cache(maxsize=1024)
def rfc3339(moment: datetime) -> str:
    """RFC 3339 with upper-case T and Z and six decimals."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
