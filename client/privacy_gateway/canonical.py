"""Canonical JSON: one byte string per value, and a parser that refuses what parsers disagree on.

Hashes, idempotency keys, policy inputs and ledger leaves are all made of these bytes, so this
module must never grow an option that changes them. Sources: RFC 8785 for the idea of canonical
JSON; we keep to integers and strings where hashes are concerned, so no float formatting is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from json.encoder import encode_basestring as encode_string
from math import isfinite
from typing import Any

from privacy_gateway.errors import Refused, invalid

MAX_DEPTH = 32
MAX_BYTES = 1_048_576
_INT_DIGITS = 20
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_PLAIN = frozenset({int, str, bool, type(None)})
# Made once; `json.dumps` would make one for every value, and `encode` one for every tree.
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


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
    kind = type(value)
    if kind is int:  # the encoder is made for trees; a number alone is its digits
        return b"%d" % value
    if kind is str:
        return encode_string(value).encode("utf-8")
    if not floats and kind not in _PLAIN:
        _refuse_floats(value)
    return _text(value).encode("utf-8")


def members(value: Mapping[str, Any], *, floats: bool = False) -> dict[str, bytes]:
    """An object member by member: canonical bytes of each name with its value, for `joined`.

    Whoever changes one member of a large object need not write the others again.

    Raises:
        TypeError: as `dumps`.
        ValueError: as `dumps`.
    """
    return {name: _name(name) + dumps(member, floats=floats) for name, member in value.items()}


def joined(parts: Mapping[str, bytes]) -> bytes:
    """Canonical bytes of the object whose `members` these are; what `dumps` would make of it."""
    return b"{" + b",".join([parts[name] for name in sorted(parts)]) + b"}"


def digest(value: Any, *, floats: bool = False) -> str:
    """SHA-256 of the canonical bytes, lower-case hex, 64 characters."""
    return digest_of(dumps(value, floats=floats))


def digest_of(data: bytes) -> str:
    """SHA-256 of canonical bytes made before, as `digest` would answer."""
    return hashlib.sha256(data).hexdigest()


def loads_strict(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON that every parser reads alike.

    Raises:
        Refused: `invalid_request` on the path of a number that is NaN, infinite, beyond a double
            or beyond 64 bits; on a key that appears twice; on text with half a character (a
            surrogate alone), which has no bytes; on `body` for what is not UTF-8 JSON or is nested
            deeper than `max_depth`; `too_large` beyond `max_bytes`.
    """
    if len(data) > max_bytes:
        raise Refused("too_large", f"the body has {len(data)} bytes; at most {max_bytes}")
    # Fewer brackets than levels cannot be too deep, whatever stands in strings.
    if data.count(b"[") + data.count(b"{") > max_depth:
        _check_depth(data, max_depth)
    try:
        value = _READ(data.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, _Unlike):
        pass  # read once more, to say what and where
    else:
        if _ESCAPED_HALF.search(data):
            _refuse_halves(value)
        return value
    place, found = next(_places(_parsed(data), ""))
    raise invalid(place or "body", found.message, value=found.text)


def _written_by(encoder: json.JSONEncoder) -> Callable[[Any], str]:
    """What `encoder.encode` writes, by an encoder in C that is made once, where there is one."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    write = make(
        None, encoder.default, encode_string, None, ":", ",", encoder.sort_keys, False, False
    )
    return lambda value: "".join(write(value, 0))


_text = _written_by(_ENCODER)


@lru_cache(maxsize=4096)
def _name(name: str) -> bytes:
    return dumps(name) + b":"


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A number that not every parser reads alike, standing where it stood."""

    text: str
    message: str


def _parsed(data: bytes) -> Any:
    """The JSON value with every unreadable number marked where it stands."""

    def note(text: str, message: str) -> _Unreadable:
        return _Unreadable(text[:40], message)

    def finite(text: str) -> float | _Unreadable:
        number = float(text)
        return number if isfinite(number) else note(text, "is beyond a double")

    def bounded(text: str) -> int | _Unreadable:
        # An integer of a million digits takes Python minutes; no field needs more than 64 bits.
        return int(text) if len(text) <= _INT_DIGITS else note(text, "is beyond 64 bits")

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=lambda name: note(name, f"{name} is not a JSON number"),
            parse_float=finite,
            parse_int=bounded,
        )
    except UnicodeDecodeError as error:
        raise invalid("body", "is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise invalid(
            "body", f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error


class _Unlike(ValueError):
    """There is a number that not every parser reads alike."""


def _refuse_constant(_: str) -> Any:
    raise _Unlike


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise _Unlike
    return number


def _bounded(text: str) -> int:
    if len(text) > _INT_DIGITS:
        raise _Unlike
    return int(text)


def _places(value: Any, path: str) -> Iterator[tuple[str, _Unreadable]]:
    """Paths (`algorithm.clip_norm`, `layers[3]`) of the unreadable numbers, in order."""
    if isinstance(value, _Unreadable):
        yield path, value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _places(member, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _places(member, f"{path}[{index}]")


def _refuse_floats(value: Any) -> None:
    """Floats have no place in a hash: two languages may print them differently."""
    if isinstance(value, float):
        raise TypeError("canonical JSON holds integers and strings, not floats")
    if isinstance(value, dict | Mapping):
        value = tuple(value.values())
    elif not isinstance(value, list | tuple):
        return
    # Most members are plain, and most sequences are sixteen integers: one look at their types.
    if not _PLAIN.issuperset(map(type, value)):
        for member in value:
            _refuse_floats(member)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two equal keys, others the first: refuse."""
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise invalid(key, "appears twice in one object")
            seen.add(key)
    return members


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, names of members too, as (path it stands at, text)."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield path, name
            yield from texts(member, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from texts(member, f"{path}[{index}]")


def _refuse_halves(value: Any) -> None:
    """A surrogate alone is no character: one parser drops it, another replaces it, a third fails.

    Escapes of two halves that belong together were read as one character before.
    """
    for path, text in texts(value):
        if _HALF.search(text):
            raise invalid(path or "body", "holds half a character (a surrogate alone)")


def _check_depth(data: bytes, max_depth: int) -> None:
    """Count brackets outside strings before the recursive parser sees them."""
    steps = (1 if bracket in b"[{" else -1 for bracket in _BRACKET.findall(_STRING.sub(b"", data)))
    if max(accumulate(steps), default=0) > max_depth:
        raise invalid("body", f"is nested deeper than {max_depth}", limit=max_depth)


# Made once; `json.loads` with hooks would make one for every text.
_READ = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_constant=_refuse_constant,
    parse_float=_finite,
    parse_int=_bounded,
).decode
