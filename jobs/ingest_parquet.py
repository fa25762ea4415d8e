"""Reads Parquet as a stream of batches; a column of one row group is the most it may unpack.

Sizes are judged by the footer before anything is decoded, and again as batches come. Numbers, and
lists of numbers of one length (nested up to four deep), are features; text is read with a
vocabulary. Nulls, other types and encrypted files are refused by column and row.
Format: Apache Parquet, read by Apache Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import ingest_text
from jobs.ingest_source import (
    BLOCK_BYTES,
    SOURCE,
    Array,
    Codes,
    Limits,
    Mask,
    Source,
    check,
    of_this_machine,
    within,
)
from jobs.ingest_spool import Spool
from privacy_gateway.errors import invalid
from privacy_gateway.manifest import Manifest

_BATCH_ROWS = 65_536
_FOOTER_BYTES = 1 << 26
_CHUNKS = 1_000_000
_WORD = 8


def read(path: Path, manifest: Manifest, scratch: Path, limits: Limits) -> Source:
    """The columns a manifest names, spooled to scratch space in their own types.

    Args:
        path: a Parquet file.
        manifest: which columns are features, label, client and test.
        scratch: an empty directory that outlives the result.
        limits: ceilings.

    Raises:
        Refused: `invalid_request` or `too_large`, naming the member of the manifest at fault, or
            `source` when the file itself is.
    """
    check(
        manifest.test_features is None,
        "manifest.test_features",
        "names an array; a Parquet file marks its test rows in the column `test`",
    )
    with _opened(path) as file, Spool(scratch, limits, len(manifest.features)) as spool:
        names = _columns(file.schema_arrow, manifest)
        rows = _batch_rows(file.metadata, set(names.values()), limits)
        for batch in file.iter_batches(
            rows, columns=sorted(set(names.values())), use_threads=False
        ):
            if batch.num_rows:
                _take(batch, manifest, spool)
        return spool.source()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file; every way in which it can be broken is one refusal."""
    try:
        with pq.ParquetFile(
            path,
            memory_map=False,
            pre_buffer=False,
            buffer_size=BLOCK_BYTES,
            thrift_string_size_limit=_FOOTER_BYTES,
            thrift_container_size_limit=_FOOTER_BYTES // 64,
            schema_depth_limit=64,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        ) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if of_this_machine(error):
            raise
        # Arrow's own words quote the file.
        raise invalid(SOURCE, "the file is not an intact Parquet file") from error


def _columns(schema: pa.Schema, manifest: Manifest) -> dict[str, str]:
    """Every named column by the manifest's member, found exactly once."""
    roles = {f"manifest.features[{at}]": name for at, name in enumerate(manifest.features)}
    roles |= {"manifest.label": manifest.label, "manifest.client": manifest.client}
    if manifest.test is not None:
        roles["manifest.test"] = manifest.test
    for field, name in roles.items():
        found = schema.names.count(name)
        check(found == 1, field, f"the file has {found} columns {name!r}", value=name)
        check("." not in name, field, "has a dot in its name, which Parquet reads as a path")
        _check_type(schema.field(name).type, field)
    return roles


def _check_type(kind: pa.DataType, field: str) -> None:
    """Only numbers, text and lists of numbers; judged before a value is decoded."""
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    check(depth == 0 or field.startswith("manifest.features"), field, "is a list")
    check(depth <= 4, field, "has more than 4 axes per record")
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    text = (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and depth == 0
    check(plain or text, field, f"has type {str(kind)[:40]}, which is neither numbers nor text")
    if field == "manifest.client":
        check(text or pa.types.is_integer(kind), field, "is neither whole numbers nor text")


def _batch_rows(metadata: Any, names: set[str], limits: Limits) -> int:
    """Rows that fill about one block, after the footer's own sizes were judged."""
    within(metadata.num_rows, limits.rows, "the file has too many rows")
    chunks = metadata.num_columns * metadata.num_row_groups
    within(chunks, _CHUNKS, "the file has too many columns in too many row groups")
    widest, unpacked = 1, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for at in range(group.num_columns):
            column = group.column(at)
            if column.path_in_schema.split(".", 1)[0] not in names:
                continue
            size = max(column.total_uncompressed_size, _WORD * column.num_values)
            check(min(size, column.num_values) >= 0, SOURCE, "the footer has a negative size")
            within(size, limits.row_group_bytes, "a column of a row group is too large")
            widest = max(widest, size // max(1, group.num_rows))
            unpacked += column.total_uncompressed_size
    within(unpacked, limits.unpacked_bytes, "the file unpacks to too many bytes")
    return int(max(1, min(_BATCH_ROWS, BLOCK_BYTES // widest)))


def _take(batch: pa.RecordBatch, manifest: Manifest, spool: Spool) -> None:
    """One batch into the spool."""
    first = spool.rows + 1
    features = [
        _features(_plain(batch.column(name), field, first), field, first, manifest)
        for at, name in enumerate(manifest.features)
        for field in [f"manifest.features[{at}]"]
    ]
    label = _plain(batch.column(manifest.label), "manifest.label", first)
    if _is_text(label):
        labels: Array = ingest_text.encode_labels(label.to_pylist(), manifest, first)
    else:
        labels = label.to_numpy(zero_copy_only=False)
    test = None
    if manifest.test is not None:
        test = _marks(_plain(batch.column(manifest.test), "manifest.test", first), first)
    client = _clients(_plain(batch.column(manifest.client), "manifest.client", first), spool, first)
    spool.append(features, labels, client, test)


def _plain(column: pa.Array, field: str, first: int) -> pa.Array:
    """Without a dictionary and without nulls."""
    if column.null_count:
        missing = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise invalid(field, f"is null in row {first + missing}")
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _features(column: pa.Array, field: str, first: int, manifest: Manifest) -> Array:
    """A block of rows as an array (rows, …); every list of a level has the same length."""
    if _is_text(column):
        return ingest_text.encode(column.to_pylist(), manifest, field, first)
    shape = [len(column)]
    while _is_list(column.type):
        if pa.types.is_fixed_size_list(column.type):
            side = column.type.list_size
        else:
            side = _side(np.diff(column.offsets.to_numpy()), field, first, shape)
        check(side >= 1, field, f"has an empty list in row {first}")
        shape.append(side)
        column = column.flatten()
        check(column.null_count == 0, field, f"has a null inside a list from row {first} on")
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: Array = column.to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def _side(lengths: Codes, field: str, first: int, shape: list[int]) -> int:
    """The one length of all lists of a level."""
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        per_row = max(1, len(lengths) // shape[0])
        raise invalid(
            field,
            f"has lists of different lengths; the first other in row "
            f"{first + int(other[0]) // per_row}",
        )
    return int(lengths[0])


def _clients(column: pa.Array, spool: Spool, first: int) -> Codes:
    """Codes of a block of ids; each different id is looked at once."""
    encoded = column.dictionary_encode()
    codes = [spool.code(client, first) for client in encoded.dictionary.to_pylist()]
    result: Codes = np.asarray(codes, np.int64)[encoded.indices.to_numpy()]
    return result


def _marks(column: pa.Array, first: int) -> Mask:
    """A 0/1 or boolean column."""
    if _is_text(column):
        raise invalid("manifest.test", "is text, not 0 or 1")
    values = column.to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise invalid("manifest.test", f"is not 0 or 1 in row {first + int(wrong[0])}")
    return np.asarray(values, np.bool_)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))
