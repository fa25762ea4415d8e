"""Identifiers: a readable prefix, then 48 bits of time and 80 random bits in base 32.

They sort by time of making and cannot be guessed; they must never carry meaning beyond that.
Layout after the ULID specification, lower-case Crockford alphabet.
"""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS = range(120, -1, -10)


def new_id(prefix: str) -> str:
    """`prefix_` and 26 characters, for example `job_01kg…`."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    characters = "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
    return f"{prefix}_{characters}"
