"""Tells private people from public test people, and puts each person's rows together.

A person is on one side as a whole. Who is public by a share of the people is decided by a keyed
hash of the id, so that nobody can choose, and the same person is on the same side in every file
and version of an owner: whoever is private must never turn public by a new registration.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

import numpy as np

from jobs.ingest_source import Codes, Mask, Records, check
from jobs.members import KEY_FILE, MemberKey, kept_secret
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

_WORDS: Final = 1 << 64

Split = tuple[Codes, tuple[Records, Codes] | None]


def split_key(state_dir: Path, owner_id: str) -> MemberKey:
    """The key that chooses an owner's public test people on this installation.

    Not the population's: its number of people has to be known before it is opened.
    """
    master = kept_secret(state_dir / KEY_FILE)
    secret = hmac.digest(master, b"public test people/" + owner_id.encode(), "sha256")
    return MemberKey(secret, hmac.new(secret, b"key id", hashlib.sha256).hexdigest()[:16])


def split(records: Records, manifest: Manifest, key: MemberKey | None) -> Split:
    """Row numbers of people's records, and of public test records; no person is in both.

    Raises:
        Refused: `invalid_request` on `manifest.test` or `manifest.test_fraction`.
    """
    if manifest.test_fraction is not None:
        public = _drawn(records, manifest.test_fraction, key)
    elif records.test is not None:
        public = records.test
    else:
        return np.arange(records.rows, dtype=np.int64), None
    people, tests = np.flatnonzero(~public), np.flatnonzero(public)
    shared = np.intersect1d(records.client[people], records.client[tests]).size
    check(
        shared == 0,
        "manifest.test",
        f"{shared} clients have both private and public test records; split by client",
        value=int(shared),
        limit=0,
    )
    return people, (records, tests)


def grouped(records: Records, people: Codes, most: int) -> tuple[Codes, Codes]:
    """Rows sorted by client, first `most` rows each in the file's order, and rows per client."""
    order = people[np.argsort(records.client[people], kind="stable")]
    _, starts, sizes = np.unique(records.client[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(starts, sizes)
    return order[place < most], np.minimum(sizes, most).astype(np.int64)


def _drawn(records: Records, fraction: float, key: MemberKey | None) -> Mask:
    """Rows of the people whose keyed hash lies below the share: each by itself, for ever."""
    if records.ids is None or key is None:
        raise invalid("manifest.test_fraction", "needs a format that tells whose record is whose")
    limit = int(fraction * _WORDS)
    hashes = key.hashes(records.ids)
    chosen = np.fromiter((int.from_bytes(h[:8], "big") < limit for h in hashes), np.bool_)
    mask: Mask = chosen[records.client]
    return mask
