"""How a ledger entry becomes bytes and how each entry seals the one before it.

The server appends with these functions and the offline verifier checks with them, so the two
cannot drift apart. An exported line is framed so that its leaf can be cut out byte for byte: what
is hashed is what was written, never a re-serialisation.

    {"hash":"<64 hex>","leaf":{…canonical JSON…},"prev":"<64 hex>"}
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

from privacy_gateway import canonical

FORMAT: Final = "privacy-gateway-ledger/1"
GENESIS: Final = "0" * 64

_BEFORE_HASH: Final = b'{"hash":"'
_BEFORE_LEAF: Final = b'","leaf":'
_BEFORE_PREV: Final = b',"prev":"'
_END: Final = b'"}'
_HEX: Final = b"0123456789abcdef"
# Everything but the leaf has a fixed width, so the frame is where it must be or nowhere.
_HASH_AT: Final = slice(len(_BEFORE_HASH), len(_BEFORE_HASH) + 64)
_LEAF_AT: Final = slice(_HASH_AT.stop + len(_BEFORE_LEAF), -len(_BEFORE_PREV) - 64 - len(_END))
_PREV_AT: Final = slice(-64 - len(_END), -len(_END))
_PREV_MARK_AT: Final = slice(_LEAF_AT.stop, _PREV_AT.start)


class Line(NamedTuple):
    """One exported entry, cut but not yet believed."""

    hash: str
    leaf: bytes
    prev: str


def leaf_bytes(leaf: dict[str, Any]) -> bytes:
    """Canonical bytes of an entry; integers, strings, booleans and null only."""
    return canonical.dumps(leaf)


def seal(prev: str, leaf: bytes) -> str:
    """SHA-256 over the previous hash (32 bytes) and the leaf, lower-case hex.

    Args:
        prev: hash of the entry before, or `GENESIS` for the first of a population.
        leaf: canonical bytes of this entry.
    """
    return hashlib.sha256(bytes.fromhex(prev) + leaf).hexdigest()


def write_line(hash_: str, leaf: bytes, prev: str) -> bytes:
    """The exported form of one entry, without the line end."""
    return b"".join(
        (_BEFORE_HASH, hash_.encode(), _BEFORE_LEAF, leaf, _BEFORE_PREV, prev.encode(), _END)
    )


def read_line(line: bytes) -> Line | None:
    """Cut an exported line, or None where its frame is damaged."""
    if not (
        line.startswith(_BEFORE_HASH)
        and line.startswith(_BEFORE_LEAF, _HASH_AT.stop)
        and line[_PREV_MARK_AT] == _BEFORE_PREV
        and line.endswith(_END)
    ):
        return None
    sealed, leaf, prev = line[_HASH_AT], line[_LEAF_AT], line[_PREV_AT]
    if not leaf or (sealed + prev).translate(None, _HEX):
        return None
    return Line(sealed.decode(), leaf, prev.decode())


def is_other_format(name: Any) -> bool:
    """Whether this names a format of the ledger's family, and not the one that is read here."""
    family = FORMAT.partition("/")[0] + "/"
    return isinstance(name, str) and name.startswith(family) and name != FORMAT
