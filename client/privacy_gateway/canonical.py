"""Canonical JSON: one byte string per value, and a parser that refuses what parsers disagree on.

Hashes, idempotency keys, policy inputs and ledger leaves are all made of these bytes, so this
module must never grow an option that changes them. Sources: RFC 8785 for the idea of canonical
JSON; we keep to integers and strings where hashes are concerned, so no float formatting is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NoReturn

from privacy_gateway.errors import Refused, invalid

MAX_DEPTH = 32
MAX_BYTES = 1_048_576
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def dumps(value: Any, *, floats: bool = False) -> bytes:
    """Canonical UTF-8 bytes of `value`: sorted keys, no white space, no NaN.

    Args:
        value: mappings with string keys, sequences, strings, integers, booleans, None.
        floats: allow finite floats (shortest round-trip form). Off for everything that is hashed
            into the ledger.

    Raises:
        TypeError: a float where none is allowed, or a type JSON does not have.
        ValueError: NaN or infinity.
    """
    if not floats:
        _refuse_floats(value)
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def digest(value: Any, *, floats: bool = False) -> str:
    """SHA-256 of the canonical bytes, lower-case hex, 64 characters."""
    return hashlib.sha256(dumps(value, floats=floats)).hexdigest()


def loads_strict(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON that every parser reads alike.

    Raises:
        Refused: `invalid_request` on field `body` (or the duplicate key's name) for anything that
            is not UTF-8 JSON, NaN, Infinity, numbers beyond a double, duplicate keys, nesting
            deeper than `max_depth`; `too_large` beyond `max_bytes`.
    """
    if len(data) > max_bytes:
        raise Refused("too_large", f"the body has {len(data)} bytes; at most {max_bytes}")
    _check_depth(data, max_depth)
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
    except UnicodeDecodeError as error:
        raise invalid("body", "is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise invalid(
            "body", f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error


def _refuse_floats(value: Any) -> None:
    """Floats have no place in a hash: two languages may print them differently."""
    if isinstance(value, float):
        raise TypeError("canonical JSON holds integers and strings, not floats")
    if isinstance(value, Mapping):
        for member in value.values():
            _refuse_floats(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _refuse_floats(member)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two equal keys, others the first: refuse."""
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise invalid(key, "appears twice in one object")
        members[key] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise invalid("body", f"{name} is not a JSON number", value=name)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise invalid("body", f"the number {text[:40]} is beyond a double", value=text[:40])
    return number


def _bounded_int(text: str) -> int:
    # An integer of a million digits takes Python minutes; no field needs more than 64 bits.
    if len(text) > 20:
        raise invalid("body", f"the integer {text[:20]}… is beyond 64 bits", value=text[:20])
    return int(text)


def _check_depth(data: bytes, max_depth: int) -> None:
    """Count brackets outside strings before the recursive parser sees them."""
    steps = (1 if bracket in b"[{" else -1 for bracket in _BRACKET.findall(_STRING.sub(b"", data)))
    if max(accumulate(steps), default=0) > max_depth:
        raise invalid("body", f"is nested deeper than {max_depth}", limit=max_depth)
