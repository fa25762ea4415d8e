"""The same records give the same store from every format; bad tables are refused by column."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.ingest_source import LIMITS
from kit.ragged import RaggedStore
from privacy_gateway.errors import Refused
from tests.jobs.format_files import ROWS, SECRET, Files
from tests.support.owner_files import (
    FORMATS,
    Rows,
    example,
    framed,
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


names = st.text(st.sampled_from("abzé7µ京😀"), min_size=1, max_size=4)

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def ragged(draw: st.DrawFn) -> Rows:
    who = draw(st.lists(names, min_size=1, max_size=30))
    width = draw(st.integers(1, 5))
    cells = st.lists(numbers, min_size=width, max_size=width)
    rows = draw(st.lists(cells, min_size=len(who), max_size=len(who)))
    labels = st.lists(st.integers(0, 2), min_size=len(who), max_size=len(who))
    return Rows(who, np.asarray(rows, np.float32), draw(labels))


@given(rows=ragged())
@settings(max_examples=15, deadline=None)
def test_every_format_of_the_same_records_is_the_same_version(rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        people = len(set(rows.who))
        made = [files.take(files.of(form, rows), people, **rows.manifest(form)) for form in FORMATS]
        assert len({one.digest for one in made}) == 1
        assert len({one.members for one in made}) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_rows_are_grouped_by_client_in_the_order_of_the_file(files: Files, form: str) -> None:
    made = files.take(files.of(form), **ROWS.manifest(form))
    store = RaggedStore.open(made.store)
    assert store.offsets.tolist() == [0, 2, 3, 6]
    assert store.column("features").tolist() == [[2, 3], [8, 9], [6, 7], [0, 1], [4, 5], [10, 11]]
    assert store.column("label").tolist() == [1, 1, 0, 0, 2, 2]


@pytest.mark.parametrize("form", FORMATS)
def test_a_wrong_number_of_people_is_refused_with_both_numbers(files: Files, form: str) -> None:
    refusal = files.refused(files.of(form), "manifest.population", clients=4, **ROWS.manifest(form))
    assert (refusal.facts["clients_found"], refusal.facts["clients_declared"]) == (3, 4)


@pytest.mark.parametrize("form", FORMATS)
def test_declared_shapes_and_ranges_hold_for_every_format(files: Files, form: str) -> None:
    source, of = files.of(form), ROWS.manifest(form)
    assert files.take(source, feature_shape=[1, 2, 1], **of).feature_shape == (1, 2, 1)
    assert files.take(source, feature_range=[0, 11], label_range=[0, 2], **of).clients == 3
    for path in list(files.stores.iterdir()):
        path.rename(files.home / path.name)
    files.refused(source, "manifest.feature_shape", feature_shape=[3], **of)
    files.refused(source, "manifest.label", label_range=[0, 1], **of)
    files.refused(source, "manifest.feature_range", feature_range=[1, 0], **of)
    place = "manifest.features[1]" if form == "csv" else "manifest.features[0]"
    refusal = files.refused(source, place, feature_range=[0, 10], **of)
    assert "row 6" in refusal.detail or form == "leaf"


@pytest.mark.parametrize("form", FORMATS)
def test_a_share_of_the_people_is_public_and_stays_it_in_every_version(
    files: Files, form: str
) -> None:
    """Whoever is private once is private in every later version, whoever else comes."""

    def sides(people: int) -> tuple[set[int], set[int]]:
        who = [f"p{number:03}" for number in range(people)] * 2
        marks = [float(int(name[1:])) for name in who]
        rows = Rows(who, np.asarray(marks, np.float32)[:, None], [0] * len(who))
        source, of = files.of(form, rows), {**rows.manifest(form), "test_fraction": 0.3}
        with pytest.raises(Refused) as caught:
            files.take(source, 10_000, **of)
        made = files.take(source, int(caught.value.facts["clients_found"]), **of)
        assert made.test_store is not None
        assert made.examples + made.test_examples == len(who)
        stores = RaggedStore.open(made.store), RaggedStore.open(made.test_store)
        private, public = ({int(v) for v in store.column("features")[:, 0]} for store in stores)
        return private, public

    before, after = sides(60), sides(90)
    assert before[0] <= after[0]
    assert before[1] <= after[1]
    assert not after[0] & after[1]
    assert len(after[0] | after[1]) == 90
    assert 5 <= len(after[1]) <= 50


def test_a_share_and_named_test_records_are_one_too_many(files: Files) -> None:
    source = files.table(public=[0] * 6)
    files.refused(source, "manifest.test_fraction", test="public", test_fraction=0.5)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32(), 2),
        pa.large_list(pa.float32()),
        pa.list_(pa.float64()),
        pa.list_(pa.float16()),
    ],
)
def test_all_kinds_of_lists_are_the_same_numbers(files: Files, kind: pa.DataType) -> None:
    same = files.take(files.of("parquet")).digest
    assert files.take(files.table(x=pa.array(ROWS.x.tolist(), kind))).digest == same


def test_parquet_keeps_bytes_and_shapes(files: Files) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    made = files.take(files.table(x=pa.array(images.tolist(), pa.list_(pa.list_(pa.uint8(), 2)))))
    assert (made.feature_dtype, made.feature_shape) == ("uint8", (2, 2))
    store = RaggedStore.open(made.store)
    assert store.column("features")[0].tolist() == images[1].tolist()


def test_parquet_scalars_dictionaries_and_numbers_as_ids(files: Files) -> None:
    x = ROWS.x
    who = np.asarray([7, 3, 7, 5, 3, 7])
    source = files.table(who=who, a=x[:, 0], b=x[:, 1])
    plain = files.take(source, features=["a", "b"])
    assert plain.digest == files.take(files.of("parquet")).digest
    coded = files.table(who=pa.array(ROWS.who).dictionary_encode())
    assert files.take(coded).digest == plain.digest


def test_a_marked_row_is_public_in_every_format_that_can_mark(files: Files) -> None:
    marks = [1, 0, 1, 0, 0, 1]
    table = files.table(public=[bool(mark) for mark in marks])
    made = files.take(table, clients=2, test="public")
    assert (made.examples, made.test_examples) == (3, 3)
    examples = (
        example({"who": [who.encode()], "x": row, "y": [label], "public": [mark]})
        for who, row, label, mark in zip(ROWS.who, ROWS.x, ROWS.y, marks, strict=True)
    )
    source = files.raw(b"".join(framed(examples)))
    again = files.take(source, clients=2, test="public", format="tfrecord")
    assert again.digest == made.digest


BAD_TABLES: list[tuple[dict[str, Any], str]] = [
    ({"x": [[1.0, 2.0]] * 5 + [[4217.25]]}, "manifest.features[0]"),
    ({"x": [[1.0, 2.0]] * 5 + [[None, 4217.25]]}, "manifest.features[0]"),
    ({"x": [[1.0, 2.0]] * 5 + [None]}, "manifest.features[0]"),
    ({"x": [[]] * 6}, "manifest.features[0]"),
    ({"x": [[float("nan"), 4217.25]] * 6}, "manifest.features[0]"),
    ({"x": [SECRET] * 6}, "manifest.features[0]"),
    ({"x": [{"a": 4217.25}] * 6}, "manifest.features[0]"),
    ({"x": [[[[[[1.0]]]]]] * 6}, "manifest.features[0]"),
    ({"x": [b"4217.25"] * 6}, "manifest.features[0]"),
    ({"y": [0, 1, 2, 0, 1, None]}, "manifest.label"),
    ({"y": [0, 1, 2, 0, 1, 3]}, "manifest.label"),
    ({"y": [[0]] * 6}, "manifest.label"),
    ({"who": [*ROWS.who[:5], None]}, "manifest.client"),
    ({"who": [*ROWS.who[:5], ""]}, "manifest.client"),
    ({"who": [1.5] * 6}, "manifest.client"),
    ({"who": [True] * 6}, "manifest.client"),
    ({"who": ["x" * 2000] * 6}, "manifest.client"),
]


@pytest.mark.parametrize(("columns", "field"), BAD_TABLES)
def test_bad_tables_are_refused_by_column(files: Files, columns: Any, field: str) -> None:
    files.refused(files.table(**columns), field)


def test_columns_a_table_lacks_are_named(files: Files) -> None:
    files.refused(files.table(), "manifest.label", label="z")
    files.refused(files.table(), "manifest.client", client="z")
    files.refused(files.table(), "manifest.test", test="z")
    files.refused(files.table(), "manifest.test_features", test_features="x", test_label="y")
    files.refused(files.table(public=[2] * 6), "manifest.test", test="public")


def test_a_column_that_unpacks_to_gigabytes_is_refused_by_the_footer(files: Files) -> None:
    """A few kilobytes of file, four million zeros."""
    lists = pa.FixedSizeListArray.from_arrays(np.zeros(1 << 22, np.int8), 1 << 20)
    table = pa.table({"who": ["a"] * 4, "x": lists, "y": [0] * 4})
    pq.write_table(table, files.home / "data.parquet", compression="zstd")
    tight = replace(LIMITS, row_group_bytes=1 << 20)
    assert (files.home / "data.parquet").stat().st_size < 10_000
    refusal = files.refused(files.home / "data.parquet", "source", clients=1, limits=tight)
    assert refusal.code == "too_large"


def test_a_file_that_ends_its_reader_is_refused(files: Files) -> None:
    """Arrow 26 aborts the process at a histogram of levels that is too long."""
    content = (Path(__file__).parents[1] / "assets" / "ends_arrow.parquet").read_bytes()
    files.refused(files.raw(content), "source")


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_are_refused_in_time_and_leave_nothing(files: Files, form: str) -> None:
    """Cuts, flips, insertions: each refused by type, or read as what it still says."""
    content = files.of(form).read_bytes()
    rng = random.Random(f"damage/{form}")
    for _ in range(15 if form == "parquet" else 60):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            how = rng.randrange(4)
            if how == 0:
                damaged[at] ^= 1 << rng.randrange(8)
            elif how == 1:
                del damaged[at : at + rng.randint(1, 40)]
            elif how == 2:
                damaged[at:at] = rng.randbytes(rng.randint(1, 20))
            else:
                damaged[at : at + 8] = b"\xff" * 8
            damaged = damaged or bytearray(b"\0")
        started = time.process_time()
        try:
            files.take(files.raw(bytes(damaged)), **ROWS.manifest(form))
        except Refused as refusal:
            assert refusal.code in ("invalid_request", "too_large")
            assert all(e.field.startswith(("manifest.", "source")) for e in refusal.errors)
        assert time.process_time() - started < 5  # a bomb would take more
        assert not list(files.stores.glob(".incoming-*"))
