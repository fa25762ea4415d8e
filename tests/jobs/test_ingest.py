"""Owner files: honest ones come out grouped and complete, wrong columns are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.ingest import KEY_FILE, ingest
from kit.ragged import RaggedStore, damaged_files
from privacy_gateway.errors import Refused
from tests.jobs.npz_files import CSV, SECRET, Files, columns, csv_text, manifest, rows_of


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_rows_are_grouped_by_client_in_the_order_of_the_file(files: Files) -> None:
    made = files.take(files.npz())
    store = RaggedStore.open(made.store)
    assert (made.clients, made.examples, store.clients) == (3, 6, 3)
    assert rows_of(store, 0) == [[2, 3], [8, 9]]
    assert rows_of(store, 1) == [[6, 7]]
    assert rows_of(store, 2) == [[0, 1], [4, 5], [10, 11]]
    assert store.column("label").tolist() == [1, 1, 0, 0, 2, 2]
    assert store.column("label").dtype == np.int32
    assert damaged_files(made.store) == []


def test_csv_and_npz_of_the_same_records_are_the_same_version(files: Files) -> None:
    lines = ["c7,0,1,0", "c3,2,3,1", "c7,4,5,2", "c5,6,7,0", "c3,8,9,1", "c7,10,11,2"]
    from_text = files.take(files.text(csv_text(*lines)), **CSV)
    shuffled = [lines[i] for i in (3, 0, 1, 2, 4, 5)]
    again = files.take(files.text(csv_text(*shuffled)), **CSV)
    assert from_text.digest == files.take(files.npz()).digest == again.digest
    assert len(list(files.stores.iterdir())) == 1


def test_the_digest_follows_content_and_public_constants(files: Files) -> None:
    source = files.npz()
    digests = {
        files.take(source).digest,
        files.take(source, scale=0.5).digest,
        files.take(source, classes=4).digest,
        files.take(source, examples_per_client=2).digest,
        files.take(files.npz(y=np.array([0, 1, 2, 0, 1, 1]))).digest,
    }
    assert len(digests) == 5


def test_the_digest_tells_nobody_elses_guess_from_the_truth(files: Files, tmp_path: Path) -> None:
    """Who knows all records but one must not find the last by hashing guesses."""
    source = files.npz()
    made = files.take(source)
    elsewhere = ingest(manifest(), source, clients=3, directory=tmp_path / "laptop" / "datasets")
    assert elsewhere.digest != made.digest
    assert files.take(source, population="pop_mallory").digest != made.digest
    key = files.stores.parent / KEY_FILE
    assert key.stat().st_mode & 0o777 == 0o600


def test_names_and_tags_are_not_content(files: Files) -> None:
    source = files.npz()
    assert files.take(source).digest == files.take(source, name="b", tags=["t"]).digest


def test_a_client_keeps_at_most_the_public_number_of_rows(files: Files) -> None:
    store = RaggedStore.open(files.take(files.npz(), examples_per_client=1).store)
    assert np.diff(store.offsets).tolist() == [1, 1, 1]
    assert rows_of(store, 2) == [[0, 1]]


def test_bytes_stay_bytes_and_the_scale_is_left_to_readers(files: Files) -> None:
    made = files.take(files.npz(x=np.full((6, 2, 2), 255, np.uint8)), scale=1 / 255)
    column = RaggedStore.open(made.store).manifest.column("features")
    assert (column.dtype, column.shape, column.scale) == ("uint8", (2, 2), 1 / 255)


@pytest.mark.parametrize("dtype", [">f8", "<f2", "float64"])
def test_other_floats_become_native_single_precision(files: Files, dtype: str) -> None:
    made = files.take(files.npz(x=np.arange(12).reshape(6, 2).astype(dtype)))
    assert made.feature_dtype == "float32"
    assert rows_of(RaggedStore.open(made.store), 1) == [[6, 7]]


def test_fortran_order_and_compression_change_nothing(files: Files) -> None:
    plain = files.take(files.npz())
    np.savez_compressed(files.home / "f.npz", **columns(x=np.asfortranarray(columns()["x"])))
    assert files.take(files.home / "f.npz").digest == plain.digest


def test_several_arrays_are_one_feature_vector(files: Files) -> None:
    source = files.npz(x2=np.arange(6, dtype=np.float32) * 100)
    made = files.take(source, features=["x", "x2"])
    assert made.feature_shape == (3,)
    assert rows_of(RaggedStore.open(made.store), 1) == [[6, 7, 300]]


def test_without_classes_a_label_is_a_quantity(files: Files) -> None:
    made = files.take(files.npz(y=np.linspace(0, 1, 6)), classes=None)
    assert made.label_dtype == "float32"


def test_marked_rows_become_the_public_test_split(files: Files) -> None:
    made = files.take(files.npz(held=np.array([0, 1, 0, 0, 1, 0])), clients=2, test="held")
    assert (made.clients, made.examples, made.test_examples) == (2, 4, 2)
    assert made.test_store is not None
    public = RaggedStore.open(made.test_store)
    assert public.clients == 1
    assert rows_of(public, 0) == [[2, 3], [8, 9]]


def test_separate_arrays_become_the_public_test_split(files: Files) -> None:
    source = files.npz(tx=np.ones((2, 2), np.float32), ty=np.array([1, 2]))
    made = files.take(source, test_features="tx", test_label="ty")
    assert made.test_store is not None
    assert RaggedStore.open(made.test_store).column("label").tolist() == [1, 2]


def test_an_owner_may_keep_test_records_from_everybody(files: Files) -> None:
    """They leave training all the same; that they are not public is part of the version."""
    source = files.npz(held=np.array([0, 1, 0, 0, 1, 0]))
    shown = files.take(source, clients=2, test="held")
    kept = files.take(source, clients=2, test="held", test_public=False)
    assert (kept.examples, kept.test_examples) == (shown.examples, shown.test_examples) == (4, 2)
    assert kept.digest != shown.digest
    assert files.take(source, clients=2, test="held", test_public=True).digest == shown.digest


def test_there_is_nothing_to_keep_where_no_test_records_are_named(files: Files) -> None:
    files.refused(files.npz(), "manifest.test_public", test_public=False)


@pytest.mark.parametrize(
    "naming",
    [{"test": "held"}, {"test_features": "x", "test_label": "y"}, {"test_fraction": 0.5}],
    ids=lambda naming: next(iter(naming)),
)
def test_nobodys_records_become_public_by_silence(files: Files, naming: dict[str, Any]) -> None:
    files.refused(files.npz(), "manifest.test_public", **naming, test_public=None)


def test_nobody_is_both_in_training_and_in_test(files: Files) -> None:
    refusal = files.refused(
        files.npz(held=np.array([1, 0, 0, 0, 0, 0])), "manifest.test", test="held"
    )
    assert refusal.errors[0].value == 1


@pytest.mark.parametrize("declared", [1, 2, 4, 1000])
def test_a_wrong_number_of_people_is_refused_with_both_numbers(files: Files, declared: int) -> None:
    refusal = files.refused(files.npz(), "manifest.population", clients=declared)
    assert (refusal.errors[0].value, refusal.errors[0].limit) == (3, declared)
    assert "3" in refusal.detail
    assert str(declared) in refusal.detail


@pytest.mark.parametrize(
    ("field", "arrays", "changes"),
    [
        ("manifest.features[0]", {"x": np.array([[float(SECRET)], [np.nan]] * 3)}, {}),
        ("manifest.features[0]", {"x": np.array([[float(SECRET)], [np.inf]] * 3)}, {}),
        ("manifest.features[0]", {"x": np.full((6, 1), 1e300)}, {}),
        ("manifest.features[0]", {"x": np.array(["a"] * 6)}, {}),
        ("manifest.features[0]", {"x": np.zeros((6, 1), np.complex128)}, {}),
        ("manifest.features[0]", {"x": np.zeros((6, 1, 1, 1, 1, 1))}, {}),
        ("manifest.features[0]", {}, {"features": ["absent"]}),
        ("manifest.features", {"x": np.zeros((6, 0))}, {}),
        ("manifest.features", {"x": np.zeros((6, 1), np.uint64)}, {}),
        ("manifest.features", {}, {"features": ["x", "y"]}),
        ("manifest.label", {"y": np.array([0, 1, 3, 0, 1, 2])}, {}),
        ("manifest.label", {"y": np.array([0, 1, -1, 0, 1, 2])}, {}),
        ("manifest.label", {"y": np.array([0, 1, 0.5, 0, 1, 2])}, {}),
        ("manifest.label", {"y": np.array([0, 1, np.nan, 0, 1, 2])}, {}),
        ("manifest.label", {"y": np.array([0, 1, np.nan, 0, 1, 2])}, {"classes": None}),
        ("manifest.label", {"y": np.zeros((6, 2))}, {}),
        ("manifest.label", {"y": np.zeros(5)}, {}),
        ("manifest.client", {"who": np.zeros(6)}, {}),
        ("manifest.client", {"who": np.zeros(())}, {}),
        ("manifest.client", {"who": np.array(["x" * 2000] * 6)}, {}),
        ("manifest.test", {"held": np.array([0, 1, 2, 0, 0, 0])}, {"test": "held"}),
        ("manifest.test", {"held": np.zeros(6)}, {"test": "held"}),
        ("manifest.test_label", {}, {"test_features": "x"}),
        ("manifest.test", {}, {"test": "who2", "test_features": "x", "test_label": "y"}),
        (
            "manifest.test_features",
            {"tx": np.ones((2, 3), np.float32), "ty": np.array([1, 2])},
            {"test_features": "tx", "test_label": "ty"},
        ),
        (
            "manifest.test_label",
            {"tx": np.ones((2, 2), np.float32), "ty": np.array([1, 2, 0])},
            {"test_features": "tx", "test_label": "ty"},
        ),
        ("source", {"x": np.zeros((0, 2)), "y": np.zeros(0, int), "who": np.zeros(0, int)}, {}),
    ],
)
def test_bad_columns_are_refused_by_their_name(
    files: Files, field: str, arrays: dict[str, Any], changes: dict[str, Any]
) -> None:
    files.refused(files.npz(**arrays), field, **changes)


def test_a_test_column_in_text_takes_words_and_digits(files: Files) -> None:
    text = "who,a,b,y,held\nc,1,2,0,0\nd,3,4,1,1\ne,5,6,2,False\nf,7,8,0,true\n"
    made = files.take(files.text(text), clients=2, test="held", **CSV)
    assert made.test_examples == 2
    files_again = files.text(text.replace("true", SECRET))
    with pytest.raises(Refused, match=r"row 4") as caught:
        files.take(files_again, clients=2, test="held", **CSV)
    assert SECRET not in caught.value.diagnostics()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60))
def test_every_record_is_kept_once_beside_its_client(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int]]
) -> None:
    files = Files(tmp_path_factory.mktemp("any"))
    who, y = (np.array(part) for part in zip(*records, strict=True))
    x = np.arange(len(records), dtype=np.float32)
    ids = np.unique(who)
    store = RaggedStore.open(files.take(files.npz(x=x, y=y, who=who), clients=len(ids)).store)
    for client, owner in enumerate(ids):
        assert rows_of(store, client) == x[who == owner].reshape(-1, 1).tolist()
    assert store.manifest.examples == len(records)


def test_real_writers(files: Files, shared_data: Path) -> None:
    made = files.take(
        shared_data / "mnist_by_writer.npz",
        clients=539,
        client="writer_train",
        features=["x_train"],
        label="y_train",
        classes=10,
        test_features="x_test",
        test_label="y_test",
        scale=1 / 255,
    )
    sizes = np.diff(RaggedStore.open(made.store).offsets)
    assert (sizes.min(), np.median(sizes), sizes.max()) == (19, 116, 131)
    assert (made.examples, made.test_examples, made.feature_shape) == (60000, 10000, (28, 28))
