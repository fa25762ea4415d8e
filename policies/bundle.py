"""The signed archive an OPA server fetches: the library and every policy that may decide.

A server in production takes policies from nobody but the holder of the signing key; whoever can
reach its door can neither replace one nor add one. The archive's revision is the SHA-256 of all it
holds, and comes back with every answer. Nothing unfinished may get in: a text that does not compile
would keep the server on its old bundle.

Form: OPA bundles with `.manifest` and `.signatures.json` (a JSON Web Signature over the SHA-256 of
every file), https://www.openpolicyagent.org/docs/management-bundles.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from policies.publication import BUNDLED, Publication
from privacy_gateway import canonical

KEY_ID = "gateway"
SCOPE = "privacy-gateway"
ALGORITHM = "ES256"
"""ECDSA on P-256: OPA 1.22 verifies no bundle by EdDSA."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive (gzipped tar) and the SHA-256 (hex) of what it holds."""

    revision: str
    archive: bytes


@dataclass(frozen=True)
class BundleKey:
    """The private key of the bundles.

    Args:
        pem: PKCS#8 or SEC1, P-256, not encrypted.

    Raises:
        ValueError: no such key; without a word of its text.
    """

    pem: bytes

    def __post_init__(self) -> None:
        try:
            key = serialization.load_pem_private_key(self.pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("no private key in PEM form") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("the key of the bundles must lie on P-256 (prime256v1)")

    @cached_property
    def public(self) -> str:
        """The public key in PEM form, for the server's configuration."""
        key = serialization.load_pem_private_key(self.pem, None).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")

    def signed(self, files: Mapping[str, bytes]) -> str:
        """The signature over names and contents, as compact JWS."""
        listed = [
            {"name": name, "hash": hashlib.sha256(content).hexdigest(), "algorithm": "SHA-256"}
            for name, content in sorted(files.items())
        ]
        payload = {"files": listed, "scope": SCOPE}
        return jwt.encode(payload, self.pem, algorithm=ALGORITHM, headers={"kid": KEY_ID})


def build(publications: Iterable[Publication], key: BundleKey) -> Bundle:
    """The bundle of these publications; equal contents give equal revisions.

    Args:
        publications: of every revision that may decide, made with the prefix `bundled`.
        key: who signs.
    """
    files = {
        name: text.encode()
        for publication in publications
        for name, text in publication.all_modules
    }
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
    revision = canonical.digest(digests)
    # Structured files are hashed in canonical form, which these bytes already have.
    manifest = {"revision": revision, "rego_version": 1, "roots": [BUNDLED]}
    files[".manifest"] = canonical.dumps(manifest)
    files[".signatures.json"] = canonical.dumps({"signatures": [key.signed(files)]})
    return Bundle(revision, _archive(files))


def _archive(files: Mapping[str, bytes]) -> bytes:
    """The same files give the same archive, up to the signature."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()
