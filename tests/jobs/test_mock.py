"""Mock data looks like the schema and depends on nothing else."""

from __future__ import annotations

import io
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import catalogue, mock
from jobs.ingest import ingest
from jobs.tables_datasets import Dataset
from kit.ragged import DTYPES
from privacy_gateway.errors import Refused
from privacy_gateway.manifest import Manifest
from tests.support.owner_files import Rows, write

PLAIN = mock.Schema("ds_1", "float32", (3,), (0.0, 1.0), 1.0, "int32", (0.0, 127.0), 4)


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    bounds=st.tuples(st.floats(-1e3, 1e3), st.floats(0.1, 1e3)),
    classes=st.none() | st.integers(2, 20),
    clients=st.integers(1, 6),
    examples=st.integers(1, 6),
)
def test_records_have_the_schemas_types_shapes_and_ranges(
    dtype: str,
    shape: list[int],
    bounds: tuple[float, float],
    classes: int | None,
    clients: int,
    examples: int,
) -> None:
    label = "int32" if classes else "float32"
    declared = [bounds[0], bounds[0] + bounds[1]]
    row = Dataset(
        id="ds_2",
        feature_dtype=dtype,
        feature_shape=shape,
        feature_scale=0.5,
        label_dtype=label,
        classes=classes,
        manifest={"feature_range": declared, "label_range": None if classes else declared},
    )
    made = mock.mock(mock.schema(row), clients=clients, examples=examples)
    features, labels, client = made["features"], made["label"], made["client"]
    assert features.dtype == dtype
    assert features.shape == (len(labels), *shape)
    assert labels.dtype == label
    assert set(client.tolist()) == set(range(clients))
    assert np.bincount(client).max() <= examples
    assert (np.diff(client) >= 0).all()
    if dtype.startswith("float"):
        low, high = np.asarray(declared, dtype)
    else:
        limits = np.iinfo(dtype)
        low = min(max(limits.min, math.ceil(declared[0])), limits.max)
        high = max(low, min(limits.max, math.floor(declared[1])))
    assert features.min() >= low
    assert features.max() <= high
    if classes:
        assert 0 <= labels.min() <= labels.max() < classes


def test_the_same_call_gives_the_same_records_and_another_data_set_others() -> None:
    first, again = (mock.mock(PLAIN, clients=3, examples=5) for _ in range(2))
    assert mock.archive(first) == mock.archive(again)
    other = mock.mock(replace(PLAIN, seed="ds_2"), clients=3, examples=5)
    assert other["features"].tolist() != first["features"].tolist()


def _registered(home: Path, rows: Rows) -> Dataset:
    described = Manifest(
        name="n", population="pop_1", classes=3, feature_range=[-50, 50], **rows.manifest("csv")
    )
    home.mkdir()
    made = ingest(described, write("csv", home / "f", rows), clients=2, directory=home / "d")
    return catalogue._row(described, made, ("a", None), "u", "ds_1", 0)


def test_not_a_byte_depends_on_the_records(tmp_path: Path) -> None:
    """Two files of one schema: other values, other numbers of records, other people."""
    one = Rows(["a", "b", "b"], np.asarray([[1, 2], [3, 4], [5, 6]], np.float32), [0, 1, 2])
    two = Rows(["x", "y"], np.asarray([[-9, 7.5], [0, 50]], np.float32), [2, 2])
    schemas = [
        mock.schema(_registered(tmp_path / name, rows))
        for name, rows in {"1": one, "2": two}.items()
    ]
    assert schemas[0] == schemas[1]
    archives = [mock.archive(mock.mock(s, clients=4, examples=9)) for s in schemas]
    assert archives[0] == archives[1]


def test_text_is_drawn_from_the_vocabulary() -> None:
    row = Dataset(
        id="ds_3",
        feature_dtype="int32",
        feature_shape=[80],
        feature_scale=1.0,
        label_dtype="int32",
        classes=5,
        manifest={"vocabulary": "abcde"},
    )
    made = mock.mock(mock.schema(row), clients=5, examples=5)
    assert set(np.unique(made["features"])) == set(range(5))


def test_a_model_can_learn_the_labels() -> None:
    """A trial run on mock data shows progress."""
    made = mock.mock(PLAIN, clients=40, examples=40)
    x = np.column_stack([made["features"], np.ones(len(made["label"]))])
    wanted = np.eye(4)[made["label"]]
    told = np.argmax(x @ np.linalg.lstsq(x, wanted, rcond=None)[0], axis=1)
    most = np.bincount(made["label"]).max() / len(wanted)
    assert (told == made["label"]).mean() > max(0.6, most)


def test_too_many_records_are_refused_before_they_are_made() -> None:
    with pytest.raises(Refused) as caught:
        mock.mock(replace(PLAIN, feature_shape=(1 << 22,)), clients=10_000, examples=10_000)
    assert caught.value.code == "too_large"
    assert [error.field for error in caught.value.errors] == ["examples"]


def test_an_archive_holds_plain_numbers() -> None:
    data = mock.archive(mock.mock(PLAIN, clients=2, examples=2))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["client", "features", "label", "scale"]


def test_a_label_of_many_classes_takes_no_gigabytes() -> None:
    """A score for each record and class at once would be 340 MB here, and 17 GB at the limit."""
    described = replace(PLAIN, feature_dtype="uint8", feature_shape=(1,), classes=1_000_000)
    tracemalloc.start()
    try:
        made = mock.mock(described, clients=1000, examples=80)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made["label"]) > 30_000
    assert peak < 64 << 20
