"""Keyed hashes of people's ids: the only trace of an id that survives ingestion.

Two files' people can be compared by them and by nothing else. The key never leaves this machine's
state directory, and each population has its own derived from it, so a hash tells nothing to whoever
lacks the key and cannot be matched across populations. Ids are brought to one form first, in which
rather two people look like one than one like two: then nobody is proven apart who is not. This
module must never log, return or store an id.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

KEY_FILE: Final = "block-members.key"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class MemberKey:
    """The secret of one population's hashes; `id` names it and may be told."""

    secret: bytes
    id: str

    def hashes(self, ids: Iterable[Any]) -> tuple[bytes, ...]:
        """HMAC-SHA-256 (RFC 2104) of each id in its one form, 32 bytes each, in their order."""
        return tuple(
            hmac.digest(self.secret, one_form(raw).encode("utf-8", "surrogatepass"), "sha256")
            for raw in ids
        )

    def __repr__(self) -> str:
        """Without the secret."""
        return f"MemberKey(id={self.id!r})"


def member_key(state_dir: Path, population_id: str) -> MemberKey:
    """The key of a population on this installation; the installation's is made at first use."""
    master = kept_secret(state_dir / KEY_FILE)
    secret = hmac.digest(master, b"block members/" + population_id.encode(), "sha256")
    return MemberKey(secret, hmac.new(secret, b"key id", hashlib.sha256).hexdigest()[:16])


def one_form(raw: Any) -> str:
    """An id without what spreadsheets and exports change: case, width, spaces, leading zeros.

    NFKC and case folding (Unicode 15, 3.13) for text; a number equals its decimal text.
    """
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else str(raw)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    packed = "".join(folded.split())
    return (packed.lstrip("0") or "0") if packed.isdecimal() else packed


def kept_secret(path: Path) -> bytes:
    """The key in a file, made at first use and never seen half written.

    Of two processes that make the first one, one wins and both use its.

    Raises:
        ValueError: the file does not hold a key.
    """
    if not path.exists():
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        try:
            # A link never replaces a key that is there: hashes of two keys cannot be compared.
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            Path(made).unlink()
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path.name} does not hold a key of {_KEY_BYTES} bytes")
    return key
