"""Signed checkpoints of the log: what the operator commits to, in a form other tools read.

The body is a C2SP tlog-checkpoint (origin, size, root), the envelope a C2SP signed note with
Ed25519 signatures; keys are written as in `golang.org/x/mod/sumdb/note`. Several keys may sign one
note, which is how a key is rotated: old and new sign together until every verifier knows the new
one. A note is believed only through `verify`; `parse` alone says nothing about who wrote it.
`cryptography` is imported when a signature is made or checked, never at import.

Sources: https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from privacy_gateway.errors import Refused
from privacy_gateway.merkle import HASH_BYTES, MAX_SIZE

ED25519: Final = b"\x01"
MAX_NOTE_BYTES: Final = 65_536
MAX_SIGNATURES: Final = 64

_NAME: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_DASH: Final = "\u2014 "
_PRIVATE: Final = "PRIVATE+KEY+"

Flaw = Literal["malformed", "unknown_key", "bad_signature"]


class BadNote(Exception):
    """A note that is not to be believed.

    Attributes:
        flaw: `malformed`; `unknown_key` when none of the given keys signed it; `bad_signature`
            when a signature in the name of a given key is forged.
        detail: one sentence.
    """

    def __init__(self, flaw: Flaw, detail: str) -> None:
        super().__init__(detail)
        self.flaw: Flaw = flaw
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was signed: the log called `origin` had `size` leaves under `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def body(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, self.size, root, *self.extensions))


@dataclass(frozen=True, slots=True)
class Signature:
    """One line below a note: who claims to have signed, by name and key id (4 bytes)."""

    name: str
    key_id: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key: `name+<key id, hex>+<base64 of 0x01 || key>` as text."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || 0x0A || 0x01 || public key), the first four bytes."""
        return key_id(self.name, self.public)

    def __str__(self) -> str:
        data = base64.b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{data}"

    def accepts(self, text: bytes, signature: bytes) -> bool:
        """Whether this key signed that text."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key. Its text, `PRIVATE+KEY+…`, belongs into a file that only its owner reads."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return Verifier(self.name, private.public_key().public_bytes_raw())

    def secret(self) -> str:
        """The text of the key file."""
        data = base64.b64encode(ED25519 + self.seed).decode()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{data}"

    def sign(self, text: bytes) -> Signature:
        """A signature over a note's text."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        made = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text)
        return Signature(self.name, self.verifier.key_id, made)


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed, not yet believed note."""

    checkpoint: Checkpoint
    text: bytes
    signatures: tuple[Signature, ...]


def key_id(name: str, public: bytes) -> bytes:
    """The key id of an Ed25519 key in a signed note, 4 bytes."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def new_signer(name: str, seed: bytes | None = None) -> Signer:
    """A fresh key from the operating system's entropy.

    Raises:
        ValueError: the name is empty or holds white space or `+`.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a key's name holds no white space and no +")
    return Signer(name, secrets.token_bytes(32) if seed is None else seed)


def read_signer(text: str) -> Signer:
    """A private key from the text of its file.

    Raises:
        BadNote: `malformed`; the text itself is never repeated.
    """
    body = text.strip()
    if not body.startswith(_PRIVATE):
        raise BadNote("malformed", f"a private key begins with {_PRIVATE}")
    name, stated, seed = _key(body.removeprefix(_PRIVATE))
    signer = Signer(name, seed)
    if signer.verifier.key_id != stated:
        raise BadNote("malformed", "the private key does not have the id that it states")
    return signer


def read_verifier(text: str) -> Verifier:
    """A public key from its text, `name+<key id>+<base64>`.

    Raises:
        BadNote: `malformed`.
    """
    name, stated, public = _key(text.strip())
    verifier = Verifier(name, public)
    if verifier.key_id != stated:
        raise BadNote("malformed", "the public key does not have the id that it states")
    return verifier


def seal(checkpoint: Checkpoint, signers: Iterable[Signer]) -> str:
    """The signed note: body, empty line, one signature line for each key."""
    text = checkpoint.body()
    return "\n".join((text, *sign_text(text, signers), ""))


def sign_text(text: str, signers: Iterable[Signer]) -> tuple[str, ...]:
    """Signature lines over a text that ends with a line feed, one for each key.

    The text's first line must say what kind of text it is; a checkpoint's is the log's name, and
    its second line a number, so no other text of the house can pass for one.
    """
    lines = []
    for signer in signers:
        made = signer.sign(text.encode())
        data = base64.b64encode(made.key_id + made.signature).decode()
        lines.append(f"{_DASH}{made.name} {data}")
    return tuple(lines)


def check_text(text: str, lines: Sequence[str], keys: Sequence[Verifier]) -> tuple[Verifier, ...]:
    """Which of the keys signed a text; signature lines of other keys are ignored.

    Raises:
        BadNote: `malformed`, `unknown_key` or `bad_signature`.
    """
    if len(lines) > MAX_SIGNATURES:
        raise BadNote("malformed", f"a note has at most {MAX_SIGNATURES} signatures")
    return _believed(text.encode(), [_signature(line) for line in lines], keys)


def parse(note: str) -> Note:
    """Cut a note into checkpoint and signatures; believes nothing.

    Raises:
        BadNote: `malformed`.
    """
    if len(note.encode()) > MAX_NOTE_BYTES:
        raise BadNote("malformed", f"a note has at most {MAX_NOTE_BYTES} bytes")
    text, empty, below = note.rpartition("\n\n")
    if not empty or not below.endswith("\n"):
        raise BadNote("malformed", "a note is a text, an empty line and signature lines")
    lines = below[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadNote("malformed", f"a note has at most {MAX_SIGNATURES} signatures")
    return Note(_body(text), f"{text}\n".encode(), tuple(_signature(line) for line in lines))


def verify(note: str, keys: Sequence[Verifier]) -> tuple[Checkpoint, tuple[Verifier, ...]]:
    """The checkpoint of a note that at least one of the keys signed, and which of them did.

    Signatures of other keys are ignored, as the specification asks; a forged signature in the name
    of a given key is not.

    Raises:
        BadNote: `malformed`, `unknown_key` or `bad_signature`.
    """
    parsed = parse(note)
    return parsed.checkpoint, _believed(parsed.text, parsed.signatures, keys)


def required(name: str = "verify") -> None:
    """Say what to install where `cryptography` is missing.

    Raises:
        Refused: `unsupported`.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise Refused(
            "unsupported",
            f"signatures need `cryptography`: pip install 'privacy-gateway[{name}]'",
        ) from error


def _believed(
    text: bytes, signatures: Sequence[Signature], keys: Sequence[Verifier]
) -> tuple[Verifier, ...]:
    known = {(key.name, key.key_id): key for key in keys}
    believed = []
    for signature in signatures:
        key = known.pop((signature.name, signature.key_id), None)
        if key is None:
            continue
        if not key.accepts(text, signature.signature):
            raise BadNote("bad_signature", f"the signature of key {_shown(key)} is forged")
        believed.append(key)
    if not believed:
        names = ", ".join(f"{made.name}+{made.key_id.hex()}" for made in signatures)
        wanted = ", ".join(_shown(key) for key in keys) or "no key"
        raise BadNote("unknown_key", f"signed by {names or 'nobody'}, not by {wanted}")
    return tuple(believed)


def _shown(key: Verifier) -> str:
    return f"{key.name}+{key.key_id.hex()}"


def _key(text: str) -> tuple[str, bytes, bytes]:
    """Name, stated id and 32 bytes of a key's text."""
    parts = text.split("+", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]):
        raise BadNote("malformed", "a key has the form NAME+ID+BASE64")
    try:
        stated, data = bytes.fromhex(parts[1]), base64.b64decode(parts[2], validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadNote("malformed", "a key has the form NAME+ID+BASE64") from error
    if data[:1] != ED25519 or len(data) != 33:
        raise BadNote("malformed", "the key is no Ed25519 key")
    return parts[0], stated, data[1:]


def _body(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise BadNote("malformed", "a checkpoint is an origin, a size and a root, one a line")
    root = _decoded(lines[2])
    if len(root) != HASH_BYTES or int(lines[1]) > MAX_SIZE:
        raise BadNote("malformed", "a root has 32 bytes and a size is below 2^62")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:]))


def _signature(line: str) -> Signature:
    name, gap, data = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not gap or not _NAME.fullmatch(name):
        raise BadNote("malformed", "a signature line is a dash, a name and base64")
    raw = _decoded(data)
    if len(raw) < 5:
        raise BadNote("malformed", "a signature holds a key id and more")
    return Signature(name, raw[:4], raw[4:])


def _decoded(text: str) -> bytes:
    """Base64 in its one canonical spelling."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise BadNote("malformed", "what should be base64 is not") from error
    if base64.b64encode(raw).decode() != text:
        raise BadNote("malformed", "base64 with stray bits")
    return raw
