"""How a ledger entry becomes bytes and how each entry seals the one before it.

The server appends with these functions and the offline verifier checks with them, so the two
cannot drift apart. An exported line is framed so that its leaf can be cut out byte for byte: what
is hashed is what was written, never a re-serialisation.

    {"hash":"<64 hex>","leaf":{…canonical JSON…},"prev":"<64 hex>"}
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, NamedTuple

from privacy_gateway import canonical

FORMAT: Final = "privacy-gateway-ledger/1"
GENESIS: Final = "0" * 64

_BEFORE_HASH: Final = b'{"hash":"'
_BEFORE_LEAF: Final = b'","leaf":'
_BEFORE_PREV: Final = b',"prev":"'
_END: Final = b'"}'
_HASH: Final = rb"([0-9a-f]{64})"
# The last possible place of what follows the leaf is the only one at which the line can end.
_FRAME: Final = re.compile(
    re.escape(_BEFORE_HASH)
    + _HASH
    + re.escape(_BEFORE_LEAF)
    + rb"(.+)"
    + re.escape(_BEFORE_PREV)
    + _HASH
    + re.escape(_END),
    re.DOTALL,
)


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
    cut = _FRAME.fullmatch(line)
    if cut is None:
        return None
    sealed, leaf, prev = cut.groups()
    return Line(sealed.decode(), leaf, prev.decode())


def is_other_format(name: Any) -> bool:
    """Whether this names a format of the ledger's family, and not the one that is read here."""
    family = FORMAT.partition("/")[0] + "/"
    return isinstance(name, str) and name.startswith(family) and name != FORMAT
