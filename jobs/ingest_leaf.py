"""Reads LEAF's JSON user by user; memory holds one user's records, the file is never parsed whole.

A small scanner finds where each user's object ends, counting brackets outside of strings; only then
is that object parsed, so nesting and size are bounded before anything is built. `users` and
`num_samples` are checked against what is there. Other members are skipped.
Format: LEAF (Caldas et al. 2018), `users`, `num_samples`, `user_data` with `x` and `y`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from jobs import ingest_text
from jobs.ingest_scan import Scanner
from jobs.ingest_source import (
    SOURCE,
    Array,
    Limits,
    Source,
    check,
    unreadable,
)
from jobs.ingest_spool import Spool
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

_USERS: Final = "users"
_COUNTS: Final = "num_samples"
_DATA: Final = "user_data"


def read(path: Path, manifest: Manifest, scratch: Path, limits: Limits) -> Source:
    """The members a manifest names, spooled to scratch space: numbers as float32, text as int32.

    Args:
        path: a LEAF JSON file.
        manifest: which members of a user's data are features and label; `client` is `users`.
        scratch: an empty directory that outlives the result.
        limits: ceilings.

    Raises:
        Refused: `invalid_request` or `too_large`, naming the member of the manifest at fault, or
            `source` when the file itself is.
    """
    for name in ("test", "test_features", "test_label"):
        check(
            getattr(manifest, name) is None,
            f"manifest.{name}",
            "names no member of a LEAF file; public test people come by `test_fraction`",
        )
    check(manifest.client == _USERS, "manifest.client", f"is {_USERS!r} in a LEAF file")
    found: dict[str, Any] = {}
    with path.open("rb") as file, Spool(scratch, limits, len(manifest.features)) as spool:
        scanner = Scanner(file, limits)
        for member in scanner.members():
            check(member not in found, SOURCE, "a member of the file appears twice")
            found[member] = None
            if member == _DATA:
                found[_DATA] = dict(_users(scanner, manifest, spool))
            elif member in (_USERS, _COUNTS):
                found[member] = _parse(scanner.value())
            else:
                scanner.skip()
        scanner.finish()
        _agree(found)
        return spool.source()


def _users(scanner: Scanner, manifest: Manifest, spool: Spool) -> Iterator[tuple[str, int]]:
    """Every user's records into the spool; gives names and counts."""
    seen: set[str] = set()
    for user in scanner.members():
        check(user not in seen, "manifest.client", "a user appears twice")
        seen.add(user)
        yield user, _take(user, _parse(scanner.value()), manifest, spool)


def _take(user: str, data: Any, manifest: Manifest, spool: Spool) -> int:
    """One user's records; a user without any is no client."""
    first = spool.rows + 1
    if not isinstance(data, dict):
        unreadable("a user's data is not an object")
    label = _column(data, manifest.label, "manifest.label", first, manifest)
    features = [
        _column(data, name, f"manifest.features[{at}]", first, manifest)
        for at, name in enumerate(manifest.features)
    ]
    if label is None:
        check(
            all(column is None for column in features),
            "manifest.label",
            f"has no record where the features have some, from row {first} on",
        )
        return 0
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    check(label.ndim == 1, "manifest.label", f"is not one value a record from row {first} on")
    kept = [column if column is not None else label[:0] for column in features]
    code = spool.code(user, first)
    spool.append(kept, label, np.full(len(label), code, np.int64))
    return len(label)


def _column(data: Any, name: str, field: str, first: int, manifest: Manifest) -> Array | None:
    """One member of a user's data as (records, …); None where it holds no record."""
    rows = data.get(name)
    if not isinstance(rows, list):
        raise invalid(field, f"a user has no list {name!r}, by row {first}", value=name)
    if not rows:
        return None
    if any(isinstance(row, str) for row in rows):
        check(all(isinstance(row, str) for row in rows), field, f"mixes text from row {first} on")
        return ingest_text.encode(rows, manifest, field, first)
    try:
        values = np.asarray(rows)
    except (ValueError, OverflowError):
        raise invalid(field, f"has records of different lengths from row {first} on") from None
    check(values.dtype.kind in "buif", field, f"is not made of numbers alone from row {first} on")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _parse(text: bytes) -> Any:
    """One bounded value, strictly."""
    try:
        return json.loads(text.decode(), parse_constant=_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise invalid(SOURCE, "the file is not JSON") from None


def _constant(_: str) -> NoReturn:
    raise ValueError("a number that JSON does not have")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def _agree(found: dict[str, Any]) -> None:
    """`users` and `num_samples` say what `user_data` holds."""
    for member in (_USERS, _COUNTS, _DATA):
        check(member in found, SOURCE, f"the file has no member {member!r}")
    users, counts, data = found[_USERS], found[_COUNTS], found[_DATA]
    check(
        isinstance(users, list) and all(isinstance(user, str) for user in users),
        SOURCE,
        "`users` is not a list of names",
    )
    check(
        len(users) == len(set(users)) and set(users) == set(data),
        "manifest.client",
        "`users` and `user_data` name different people",
    )
    check(
        counts == [data[user] for user in users],
        SOURCE,
        "`num_samples` and `user_data` disagree about some user's number of records",
    )
