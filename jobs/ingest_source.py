"""What the readers of owner files share: limits, the columns they yield, how they refuse.

An owner's file is hostile until proven otherwise. Nothing here may unpickle, execute or trust a
declared size, and no message may show a value of a record: an owner sees row numbers.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from privacy_gateway.errors import FieldError, Refused, invalid

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SOURCE = "source"
BLOCK_BYTES = 1 << 22

_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Limits:
    """Public ceilings on an owner's file; every one is checked before memory or disk is spent.

    `file_bytes` is the upload, `unpacked_bytes` the sum of what is unpacked from it, `rows` the
    records, `row_elements` the numbers in one record, `members` the entries of an archive,
    `line_bytes` one line of CSV, `client_bytes` one client's id, `record_bytes` one TFRecord or
    one user of a LEAF file (parsed in memory, up to ten times as large), `row_group_bytes` one
    column of one row group of a Parquet file, `client_column_bytes` all ids of an NPZ archive
    (sorted in memory, several times as large).
    """

    file_bytes: int = 8 << 30
    unpacked_bytes: int = 32 << 30
    rows: int = 200_000_000
    row_elements: int = 1 << 22
    members: int = 256
    line_bytes: int = 1 << 20
    client_bytes: int = 1024
    client_column_bytes: int = 2 << 30
    record_bytes: int = 32 << 20
    row_group_bytes: int = 1 << 30


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Records:
    """Rows in the order of the file, not yet grouped or checked.

    Attributes:
        features: arrays whose rows together are one example's features (disk-backed).
        label: one label a row.
        client: rank of the row's client among the sorted client ids; one stand-in for all public
            test records that come as arrays of their own.
        test: True where the row belongs to the public test split; None without such a column.
        ids: the client ids by rank; None where the reader keeps none.
    """

    features: tuple[Array, ...]
    label: Array
    client: Codes
    test: Mask | None = None
    ids: Sequence[Any] | None = None

    @property
    def rows(self) -> int:
        """Number of records."""
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Source:
    """Everything one file yields: records of people, and separate public test records if named."""

    records: Records
    public_test: Records | None = None


def too_large(message: str, *, value: int, limit: int, field: str = SOURCE) -> Refused:
    """`too_large` about one field, with both numbers."""
    return Refused(
        "too_large", f"{field}: {message}", errors=[FieldError(field, message, value, limit)]
    )


def check(holds: bool, field: str, message: str, **facts: Any) -> None:
    """Refuse with `invalid_request` on `field` unless `holds`."""
    if not holds:
        raise invalid(field, message, **facts)


def within(value: int, limit: int, message: str, field: str = SOURCE) -> None:
    """Refuse with `too_large` when `value` is beyond `limit`."""
    if value > limit:
        raise too_large(
            f"{message}: {value}, at most {limit}", value=value, limit=limit, field=field
        )


def of_this_machine(error: BaseException) -> bool:
    """Whether a failure is this machine's (disk full, out of descriptors), not the file's."""
    return isinstance(error, OSError) and error.errno in _OURS


def unreadable(message: str) -> NoReturn:
    """The file is not what the manifest calls it."""
    raise invalid(SOURCE, message)
