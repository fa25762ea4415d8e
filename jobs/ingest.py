"""Turns an owner's file into a sealed client store, once, before anybody may ask about it.

Grouping by person happens here and nowhere else: what counts as one client in the store is what
the privacy budget protects. So the number of people found must equal the number the population
declares, public test people must be other people, and the cap on one person's records is a public
constant of the manifest. Client ids are dropped. No pickles, no value of a record in a message.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jobs import (
    ingest_child,
    ingest_columns,
    ingest_csv,
    ingest_leaf,
    ingest_npz,
    ingest_split,
    ingest_tfrecord,
)
from jobs.ingest_source import BLOCK_BYTES, LIMITS, SOURCE, Codes, Limits, Records, check, within
from jobs.ingest_text import check_vocabulary
from jobs.members import MemberKey
from kit import ragged
from privacy_gateway import canonical
from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.manifest import Manifest

FEATURES = "features"
LABEL = "label"
FORMAT = "privacy-gateway-dataset/2"
KEY_FILE = "dataset-digest.key"
_KEY_BYTES = 32

_READERS = {
    "npz": ingest_npz.read,
    "csv": ingest_csv.read,
    "parquet": ingest_child.read,
    "tfrecord": ingest_tfrecord.read,
    "leaf": ingest_leaf.read,
}


@dataclass(frozen=True, slots=True)
class Ingested:
    """A sealed dataset version on disk.

    Attributes:
        digest: keyed hash of both stores' digests, the population and the public constants; names
            the directory. Everybody may see it and nobody can test a guess about a record with it.
        store: directory of the people's store (`kit.ragged`; columns `features`, `label`).
        test_store: directory of the public test store (one client holds all), or None.
        clients, examples, test_examples: sizes.
        feature_dtype, feature_shape, feature_scale: one example's features as stored, and the
            factor a reader multiplies them with.
        label_dtype: `int32` for classes, `float32` for a quantity.
        members: keyed hashes of the people's ids, where the file is for a block.
    """

    digest: str
    store: Path
    test_store: Path | None
    clients: int
    examples: int
    test_examples: int
    feature_dtype: str
    feature_shape: tuple[int, ...]
    feature_scale: float
    label_dtype: str
    members: tuple[bytes, ...] | None = None


def ingest(
    manifest: Manifest,
    source: Path,
    *,
    clients: int,
    directory: Path,
    limits: Limits = LIMITS,
    member_key: MemberKey | None = None,
    split_key: MemberKey | None = None,
) -> Ingested:
    """Read, check, group by client and seal one file.

    Args:
        manifest: what the columns mean.
        source: a file of the manifest's format.
        clients: the population's public number of people.
        directory: parent of all dataset versions; the version lands in `directory/<digest>`. The
            same content lands in the same place, so a repeated call is harmless.
        limits: ceilings on the file.
        member_key: hashes the people's ids, for a block.
        split_key: chooses the public test people of a manifest with `test_fraction`.

    Raises:
        Refused: `invalid_request` or `too_large`; every error names `manifest.…` or `source`.
    """
    _check_manifest(manifest)
    check(source.is_file(), SOURCE, "is not a regular file")
    within(source.stat().st_size, limits.file_bytes, "the file is too large")
    with _scratch(directory) as scratch:
        spool = scratch / "spool"
        spool.mkdir()
        content = _READERS[manifest.format](source, manifest, spool, limits)
        people, test = ingest_split.split(content.records, manifest, split_key)
        if content.public_test is not None:
            test = (content.public_test, np.arange(content.public_test.rows, dtype=np.int64))
        order, sizes = ingest_split.grouped(content.records, people, manifest.examples_per_client)
        _check_clients(len(sizes), clients)
        version = scratch / "version"
        trained = _write(version / "train", content.records, order, sizes, manifest)
        public = None
        if test is not None and len(test[1]):
            records, rows = test
            public = _write(version / "test", records, rows, _one(len(rows)), manifest)
        digest = _digest(_digest_key(directory.parent / KEY_FILE), manifest, trained, public)
        made = _ingested(digest, _publish(version, directory / digest), trained, public)
        if member_key is None:
            return made
        return replace(made, members=_members(content.records, people, member_key))


def _check_manifest(manifest: Manifest) -> None:
    """What a schema cannot say about a manifest."""
    both = (manifest.test_features is None) == (manifest.test_label is None)
    check(both, "manifest.test_label", "and test_features come together or not at all")
    twice = manifest.test is not None and manifest.test_features is not None
    check(not twice, "manifest.test", "and test_features are two ways to say the same; use one")
    named = manifest.test is not None or manifest.test_features is not None
    check(
        manifest.test_fraction is None or not named,
        "manifest.test_fraction",
        "and named test records are two ways to say the same; use one",
    )
    _check_said(manifest, test_records=named or manifest.test_fraction is not None)
    check_vocabulary(manifest)
    for name in ("feature_range", "label_range"):
        bounds = getattr(manifest, name)
        check(
            bounds is None or bounds[0] < bounds[1], f"manifest.{name}", "is not a low and a high"
        )
    roles = [*manifest.features, manifest.label, manifest.client]
    roles += [manifest.test] if manifest.test else []
    check(
        len(set(roles)) == len(roles),
        "manifest.features",
        "features, label, client and test are different columns",
    )


def _check_said(manifest: Manifest, *, test_records: bool) -> None:
    """Nobody's records become public because an owner said nothing."""
    field, said = "manifest.test_public", manifest.test_public is not None
    check(
        said or not test_records,
        field,
        "test records need a word: true (public, anybody's models are measured on them without "
        "noise) or false (kept out of training, and nothing is measured)",
    )
    check(test_records or not said, field, "speaks of test records, and the manifest names none")


def _members(records: Records, people: Codes, key: MemberKey) -> tuple[bytes, ...]:
    """Keyed hashes of the private people; a reader that keeps no ids cannot prove anything."""
    if records.ids is None:
        raise invalid("manifest.block", "needs a format that tells whose record is whose")
    ids = records.ids
    return key.hashes(ids[int(code)] for code in np.unique(records.client[people]))


def _check_clients(found: int, declared: int) -> None:
    """The public N prices every round; a wrong one would misprice them all."""
    if found == declared:
        return
    message = f"the file holds {found} clients where the population declares {declared}"
    raise Refused(
        "invalid_request",
        f"manifest.population: {message}",
        errors=[FieldError("manifest.population", message, found, declared)],
        clients_found=found,
        clients_declared=declared,
    )


def _write(
    directory: Path, records: Records, rows: Codes, sizes: Codes, manifest: Manifest
) -> ragged.Manifest:
    """Gather rows in blocks, check them, and seal a store."""
    dtype, shape = (
        ingest_columns.feature_type(records),
        ingest_columns.feature_shape(records, manifest),
    )
    label_dtype = ingest_columns.label_type(records, manifest)
    columns = [
        ragged.Column(FEATURES, dtype.name, shape, manifest.scale),
        ragged.Column(LABEL, label_dtype.name),
    ]
    directory.parent.mkdir(exist_ok=True)
    with ragged.RaggedWriter(directory, columns) as writer:
        for first, last in _blocks(sizes, math.prod(shape) * dtype.itemsize):
            start, stop = int(sizes[:first].sum()), int(sizes[:last].sum())
            block = rows[start:stop]
            writer.append(
                sizes[first:last],
                {
                    FEATURES: ingest_columns.features(records, block, dtype, manifest).reshape(
                        len(block), *shape
                    ),
                    LABEL: ingest_columns.labels(records, block, label_dtype, manifest),
                },
            )
        return writer.seal()


def _blocks(sizes: Codes, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs of clients whose rows together fill about one block."""
    ends = np.cumsum(sizes) * row_bytes
    first = 0
    while first < len(sizes):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + 8 * BLOCK_BYTES, side="right")))
        yield first, last
        first = last


def _one(rows: int) -> Codes:
    return np.asarray([rows], dtype=np.int64)


def _digest(
    key: bytes, manifest: Manifest, train: ragged.Manifest, test: ragged.Manifest | None
) -> str:
    """What names the version: both contents and the constants that prices or training use.

    A plain hash of people's records would be an answer about them without noise: whoever knows
    all records but one could try values for the last. So it takes a key that never leaves this
    installation, and the population, so that no other owner can try values by registering them.
    """
    content = canonical.dumps(
        {
            "format": FORMAT,
            "train": train.digest,
            "test": None if test is None else test.digest,
            "population": manifest.population,
            "clients": train.clients,
            "classes": manifest.classes,
            "examples_per_client": manifest.examples_per_client,
            # Only where it is not as ever: digests of earlier versions stay what they were.
            **({} if manifest.cohort == "secret" else {"cohort": manifest.cohort}),
            **({} if manifest.vocabulary is None else {"vocabulary": manifest.vocabulary}),
            **({"test_public": False} if manifest.test_public is False else {}),
        }
    )
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _digest_key(path: Path) -> bytes:
    """The installation's key, made at first use and never seen half written.

    Of two processes that make the first one the later wins; nothing depends on which.
    """
    if not path.exists():
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(descriptor)
        Path(made).replace(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path.name} does not hold a key of {_KEY_BYTES} bytes")
    return key


def _ingested(
    digest: str, home: Path, train: ragged.Manifest, test: ragged.Manifest | None
) -> Ingested:
    features = train.column(FEATURES)
    return Ingested(
        digest=digest,
        store=home / "train",
        test_store=None if test is None else home / "test",
        clients=train.clients,
        examples=train.examples,
        test_examples=0 if test is None else test.examples,
        feature_dtype=features.dtype,
        feature_shape=features.shape,
        feature_scale=features.scale,
        label_dtype=train.column(LABEL).dtype,
    )


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Private working space on the same file system; nothing of it stays."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = Path(tempfile.mkdtemp(prefix=".incoming-", dir=directory))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(version: Path, home: Path) -> Path:
    """Move the sealed version to its name; equal content that is there already is the same."""
    try:
        version.rename(home)
    except OSError:
        if not home.is_dir():
            raise
        return home
    descriptor = os.open(home.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return home
