"""The same records give the same store from every format; hostile files are refused by name."""

from __future__ import annotations

import base64
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.ingest import Ingested, ingest
from jobs.ingest_source import LIMITS, Limits
from jobs.ingest_split import split_key
from jobs.members import member_key
from kit.ragged import RaggedStore
from privacy_gateway.errors import Refused
from privacy_gateway.manifest import Manifest
from tests.support.owner_files import (
    FORMATS,
    Rows,
    example,
    framed,
    leaf,
    packed,
    write,
)

SECRET = "4217.25"
ROWS = Rows(
    who=["c7", "c3", "c7", "c5", "c3", "c7"],
    x=np.arange(12, dtype=np.float32).reshape(6, 2),
    y=[0, 1, 2, 0, 1, 2],
)
# Written by TensorFlow 2.21: two Examples with floats, whole numbers of every length, and text.
BY_TENSORFLOW = (
    "YAAAAAAAAAAoIcbaCl4KHAoBbhIXGhUKEwH///////////8BrAKAgICAgCAKDwoGcHVibGljEgUaAwoBAAoOCgN3aG8S"
    "BwoFCgNhbm4KEQoBeBIMEgoKCAAAAD8AAKC/CgoKAXkSBRoDCgECSwnWgFsAAAAAAAAAGwECigpZChcKAW4SEhoQCg4A"
    "f4ABgICAgICAgICAAQoPCgZwdWJsaWMSBRoDCgEBCg4KA3dobxIHCgUKA2JvYgoRCgF4EgwSCgoIAABAQAAAgEAKCgoB"
    "eRIFGgMKAQAPYQ6r"
)


def manifest(**changes: Any) -> Manifest:
    base = {"name": "digits", "population": "pop_1", "classes": 3, **ROWS.manifest("parquet")}
    return Manifest(**(base | changes))


class Files:
    """Writes owner files below one directory and ingests them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stores = home / "datasets"
        self.stores.mkdir()

    def of(self, form: str, rows: Rows = ROWS) -> Path:
        return write(form, self.home / f"data.{form}", rows)

    def raw(self, content: bytes) -> Path:
        path = self.home / "data.raw"
        path.write_bytes(content)
        return path

    def table(self, **columns: Any) -> Path:
        base = {"who": list(ROWS.who), "x": ROWS.x.tolist(), "y": list(ROWS.y)}
        pq.write_table(pa.table(base | columns), self.home / "data.parquet")
        return self.home / "data.parquet"

    def take(
        self, source: Path, clients: int = 3, limits: Limits = LIMITS, **changes: Any
    ) -> Ingested:
        made = manifest(**changes)
        return ingest(
            made,
            source,
            clients=clients,
            directory=self.stores,
            limits=limits,
            member_key=member_key(self.home, made.population),
            split_key=split_key(self.home, made.population),
        )

    def refused(self, source: Path, field: str, **options: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            self.take(source, **options)
        assert [error.field for error in caught.value.errors] == [field]
        assert SECRET not in caught.value.diagnostics()
        # A refusal leaves no file of the owner behind.
        assert list(self.stores.iterdir()) == []
        return caught.value


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


def test_examples_written_by_tensorflow_are_read(files: Files) -> None:
    source = files.raw(base64.b64decode(BY_TENSORFLOW))
    of = {"format": "tfrecord", "client": "who"}
    made = files.take(source, clients=2, **of)
    assert RaggedStore.open(made.store).column("features").tolist() == [[0.5, -1.25], [3, 4]]
    whole = files.take(source, clients=2, features=["n"], **of)
    rows = RaggedStore.open(whole.store).column("features").tolist()
    assert rows == [[1, -1, 300, 1 << 40], [0, 127, 128, -(1 << 63)]]
    marked = files.take(source, clients=1, test="public", **of)
    assert marked.test_examples == 1
    zipped = files.raw(packed(base64.b64decode(BY_TENSORFLOW)))
    assert files.take(zipped, clients=2, **of).digest == made.digest


TFRECORD = {"format": "tfrecord"}


def record(**changes: Any) -> bytes:
    base = {"who": [b"a"], "x": np.asarray([1.0, 2.0]), "y": [0]}
    return example(base | changes)


@pytest.mark.parametrize(
    ("last", "field"),
    [
        (record(x=np.asarray([4217.25])), "manifest.features[0]"),
        (record(x=[1, 2]), "manifest.features[0]"),
        (record(x=np.asarray([np.inf, 4217.25])), "manifest.features[0]"),
        (record(x=[b"4217.25", b"4217.25"]), "manifest.features[0]"),
        (record(x=[]), "manifest.features[0]"),
        (record(y=[0, 1]), "manifest.label"),
        (record(y=[7]), "manifest.label"),
        (record(who=[b"\xff"]), "manifest.client"),
        (record(who=[b"a", b"b"]), "manifest.client"),
        (record(who=[3]), "manifest.client"),
        (record(who=[b""]), "manifest.client"),
        (record(who=np.asarray([1.0])), "manifest.client"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "source"),
        (b"\x0a\x05abc", "source"),
        (b"\x0b", "source"),
        (b"\x08", "source"),
    ],
)
def test_bad_examples_are_refused_by_feature(files: Files, last: bytes, field: str) -> None:
    files.refused(files.raw(b"".join(framed([record(), last]))), field, clients=1, **TFRECORD)


@pytest.mark.parametrize("at", [0, 9, 14, 30, -1])
def test_a_flipped_bit_in_a_record_is_refused(files: Files, at: int) -> None:
    content = bytearray(b"".join(framed([record(), record()])))
    content[at] ^= 1
    files.refused(files.raw(bytes(content)), "source", clients=1, **TFRECORD)


def test_a_compressed_bomb_stops_at_the_limit(files: Files) -> None:
    bomb = packed(b"".join(framed([record(x=[b"\0" * 1_000_000])] * 50)))
    assert len(bomb) < 200_000
    tight = replace(LIMITS, unpacked_bytes=4_000_000)
    refusal = files.refused(files.raw(bomb), "source", clients=1, limits=tight, **TFRECORD)
    assert refusal.code == "too_large"
    long = b"".join(framed([record(x=[b"\0" * 10_000])]))
    short = replace(LIMITS, record_bytes=1000)
    files.refused(files.raw(long), "source", clients=1, limits=short, **TFRECORD)
    files.refused(files.raw(bomb[:-20]), "source", clients=1, **TFRECORD)


LEAF = {"format": "leaf", "client": "users"}


def document(**changes: Any) -> dict[str, Any]:
    users = {"a": {"x": [[1.0, 2.0], [3.0, 4.0]], "y": [0, 1]}, "b": {"x": [[5.0, 6.0]], "y": [2]}}
    return leaf(users) | changes


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (document(users=["a"]), "manifest.client"),
        (document(users=["a", "c"]), "manifest.client"),
        (document(users=["a", 3]), "source"),
        (document(num_samples=[2, 2]), "source"),
        (document(num_samples=None), "source"),
        (document(user_data={"a": [4217.25]}), "source"),
        (leaf({"a": {"x": [[1.0], [1.0, 4217.25]], "y": [0, 0]}}), "manifest.features[0]"),
        (leaf({"a": {"x": [[None]], "y": [0]}}), "manifest.features[0]"),
        (leaf({"a": {"x": [["4217.25"]], "y": [0]}}), "manifest.features[0]"),
        (leaf({"a": {"x": ["4217.25"], "y": [0]}}), "manifest.features[0]"),
        (leaf({"a": {"x": [[1e300]], "y": [0]}}), "manifest.features[0]"),
        (leaf({"a": {"x": [[1.0]], "y": [0, 1]}}), "manifest.features[0]"),
        (leaf({"a": {"x": [], "y": [0]}}), "manifest.features[0]"),
        (leaf({"a": {"x": [[1.0]], "y": []}}), "manifest.label"),
        (leaf({"a": {"x": [[1.0]], "y": [[0, 1]]}}), "manifest.label"),
        (leaf({"a": {"y": [0]}}), "manifest.features[0]"),
        (leaf({}), "source"),
    ],
)
def test_bad_users_are_refused_by_member(files: Files, content: Any, field: str) -> None:
    source = files.raw(json.dumps(content).encode())
    files.refused(source, field, clients=len(content["users"]) or 1, **LEAF)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"users": ["a"]}',
        b'{"users": ["a"], "users": ["a"]}',
        b'{"users": ' + DEEP,
        b'{"user_data": {"a": {"x": ' + DEEP,
        b'{"hierarchies": ' + DEEP,
        b'{"user_data": {"a": {"x": [[NaN]], "y": [0]}}, "users": ["a"], "num_samples": [1]}',
        b'{"user_data": {"a": {"x": [[1]], "y": [0]}, "a": {"x": [[1]], "y": [0]}}}',
        b'{"user_data": {"a": {"x": [[1]], "x": [[2]], "y": [0]}}}',
        b'{"user_data": {"a": {"x": [[' + b"9" * 5000 + b']], "y": [0]}}}',
        b'{"user_data": {"a\\ud800": {"x": [[1]], "y": [0]}}}',
        b'{"user_data": {"a": "\xff"}}',
        b'{"user_data": {"a": "' + b"\\" * 99_999,
        b"\xff\xfe{\x00}\x00",
        json.dumps(document()).encode() + b"{}",
        json.dumps(document()).encode()[:-1],
    ],
)
def test_what_is_no_leaf_file_is_refused(files: Files, content: bytes) -> None:
    with pytest.raises(Refused) as caught:
        files.take(files.raw(content), 1, **LEAF)
    assert caught.value.code == "invalid_request"
    # What a refusal says can always be sent.
    caught.value.diagnostics().encode()
    assert list(files.stores.iterdir()) == []


def test_white_space_escapes_and_order_of_members_change_nothing(files: Files) -> None:
    same = files.take(files.raw(json.dumps(document()).encode()), 2, **LEAF).digest
    turned = {"extra": [{"x": 'a"]}\\'}] * 30_000, **dict(reversed(document().items()))}
    for text in (json.dumps(turned, indent=1), json.dumps(turned, separators=(",", ":"))):
        assert files.take(files.raw(text.encode()), 2, **LEAF).digest == same


def test_a_user_beyond_the_limit_is_refused_before_it_is_parsed(files: Files) -> None:
    big = leaf({"a": {"x": [[1.0]] * 5000, "y": [0] * 5000}})
    tight = replace(LIMITS, record_bytes=10_000)
    refusal = files.refused(files.raw(json.dumps(big).encode()), "source", limits=tight, **LEAF)
    assert refusal.code == "too_large"


VOCABULARY = {"vocabulary": "abcü ", "classes": 5, "features": ["x"]}


def _text_files(files: Files, texts: list[str], labels: list[str]) -> dict[str, Callable[[], Path]]:
    who = ["s", "t", "s"]
    of = {name: {"x": [], "y": []} for name in who}  # type: dict[str, dict[str, list[str]]]
    for name, text, label in zip(who, texts, labels, strict=True):
        of[name]["x"].append(text)
        of[name]["y"].append(label)
    records = [
        example({"who": [n.encode()], "x": [t.encode()], "y": [y.encode()]})
        for n, t, y in zip(who, texts, labels, strict=True)
    ]
    return {
        "leaf": lambda: files.raw(json.dumps(leaf(of)).encode()),
        "parquet": lambda: _table(files, who, texts, labels),
        "tfrecord": lambda: files.raw(b"".join(framed(records))),
    }


def _table(files: Files, who: list[str], texts: list[str], labels: list[str]) -> Path:
    pq.write_table(pa.table({"who": who, "x": texts, "y": labels}), files.home / "data.parquet")
    return files.home / "data.parquet"


def test_text_becomes_numbers_by_a_public_vocabulary(files: Files) -> None:
    digests = set()
    for form, source in _text_files(files, ["abü", "a c", "ccc"], ["b", "ü", " "]).items():
        client = "users" if form == "leaf" else "who"
        of = {**VOCABULARY, "format": form, "client": client}
        made = files.take(source(), 2, **of)
        digests.add(made.digest)
        store = RaggedStore.open(made.store)
        assert store.column("features").tolist() == [[0, 1, 3], [2, 2, 2], [0, 4, 2]]
        assert store.column("label").tolist() == [1, 4, 3]
        assert made.feature_dtype == "int32"
        assert files.take(source(), 2, **{**of, "vocabulary": "abcü x"}).digest not in digests
    assert len(digests) == 1


@pytest.mark.parametrize("form", ["leaf", "parquet", "tfrecord"])
@pytest.mark.parametrize("texts", [["abc", "abz", "abc"], ["abc", "ab", "abc"], ["", "", ""]])
def test_text_outside_of_the_vocabulary_is_refused(
    files: Files, form: str, texts: list[str]
) -> None:
    source = _text_files(files, texts, ["a", "a", "a"])[form]()
    of = {**VOCABULARY, "format": form, "client": "users" if form == "leaf" else "who"}
    files.refused(source, "manifest.features[0]", clients=2, **of)
    if texts[1] == "abz":
        made = files.take(source, 2, unknown=" ", **of)
        rows = RaggedStore.open(made.store).column("features").tolist()
        assert rows == [[0, 1, 2], [0, 1, 2], [0, 1, 4]]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"vocabulary": "aba"}, "manifest.vocabulary"),
        ({"vocabulary": "ab", "format": "csv"}, "manifest.vocabulary"),
        ({"vocabulary": "ab", "unknown": "c"}, "manifest.unknown"),
        ({"unknown": "c"}, "manifest.unknown"),
    ],
)
def test_a_vocabulary_that_is_none(files: Files, changes: Any, field: str) -> None:
    files.refused(files.table(), field, **changes)


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
        assert time.process_time() - started < 1
        assert not list(files.stores.glob(".incoming-*"))
