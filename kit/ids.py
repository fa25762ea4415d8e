"""Identifiers: a readable prefix, then 48 bits of time and 80 random bits in base 32.

They sort by time of making and cannot be guessed; they must never carry meaning beyond that.
Layout after the ULID specification, lower-case Crockford alphabet.
"""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """`prefix_` and 26 characters, for example `job_01kg…`."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    characters = []
    for _ in range(26):
        number, index = divmod(number, 32)
        characters.append(_ALPHABET[index])
    return f"{prefix}_{''.join(reversed(characters))}"
