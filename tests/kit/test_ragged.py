"""A store gives back exactly what was written, by path or by descriptor, and notices damage."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import ragged
from kit.ragged import Column, RaggedStore, RaggedWriter, StoreDamaged


def _write(directory: Path) -> ragged.Manifest:
    rows = {"features": np.arange(24, dtype=np.uint8).reshape(6, 4), "label": np.arange(6)}
    return ragged.write(directory, rows, [2, 0, 3, 1], scales={"features": 1 / 255})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    manifest = _write(tmp_path / "store")
    store = RaggedStore.open(tmp_path / "store")
    assert store.clients == 4
    assert store.manifest == manifest
    assert store.manifest.column("features").scale == 1 / 255
    assert store.sizes(np.arange(4)).tolist() == [2, 0, 3, 1]
    np.testing.assert_array_equal(store.column("features")[2:5].ravel(), np.arange(8, 20))
    with pytest.raises(ValueError, match="read-only"):
        store.column("label")[0] = 7


def test_appending_in_parts_gives_the_same_digest(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole")
    columns = [Column("features", "uint8", (4,), 1 / 255), Column("label", "int64")]
    features, label = np.arange(24, dtype=np.uint8).reshape(6, 4), np.arange(6)
    with RaggedWriter(tmp_path / "parts", columns) as writer:
        writer.append([2, 0], {"features": features[:2], "label": label[:2]})
        writer.append([3, 1], {"features": features[2:], "label": label[2:]})
    assert ragged.read_manifest(tmp_path / "parts").digest == whole.digest


def test_descriptors_outlive_the_path(tmp_path: Path) -> None:
    _write(tmp_path / "store")
    with ragged.descriptors(tmp_path / "store") as (manifest, files):
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        store = RaggedStore(manifest, files)
    assert store.column("label").tolist() == list(range(6))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="Expected label"),
        RaggedWriter(tmp_path / "store", [Column("label", "int64")]) as writer,
    ):
        writer.append([1], {"label": np.zeros(2, np.int64)})
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_is_found_in_its_file(tmp_path: Path) -> None:
    _write(tmp_path / "store")
    assert ragged.damaged_files(tmp_path / "store") == []
    path = tmp_path / "store" / "features.bin"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert ragged.damaged_files(tmp_path / "store") == ["features.bin"]


@pytest.mark.parametrize("name", ["features.bin", "offsets.bin"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "store")
    path = tmp_path / "store" / name
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreDamaged):
        RaggedStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["../escape", "offsets", "", "a/b", ".hidden"])
def test_names_that_could_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Expected a column name"):
        Column(name, "int64")


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype"):
        ragged.write(tmp_path / "store", {"x": np.array([{}], dtype=object)}, [1])


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    picks=st.lists(st.integers(0, 7), max_size=8),
)
def test_ragged_rows_are_each_clients_own(sizes: list[int], picks: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    clients = np.array([p % len(sizes) for p in picks], np.int64)
    rows, starts = ragged.ragged_rows(offsets, clients)
    expected = [list(range(offsets[c], offsets[c + 1])) for c in clients]
    assert [rows[a:b].tolist() for a, b in itertools.pairwise(starts)] == expected


@pytest.mark.parametrize("offsets", [[0, 3, 2, 4], [0, -1, 2, 4], [0, 5, 5, 4], [0, 4, 1, 4]])
def test_offsets_that_fall_or_leave_the_store_are_refused_where_they_are_used(
    offsets: list[int],
) -> None:
    with pytest.raises(ragged.StoreDamaged):
        ragged.ragged_rows(np.asarray(offsets), np.arange(3))


def test_opening_reads_no_more_of_a_store_with_more_clients(tmp_path: Path) -> None:
    """A fault in the middle is not seen until somebody asks for those clients."""
    rows = {"label": np.zeros(3000, np.int32)}
    ragged.write(tmp_path / "s", rows, np.full(3000, 1))
    path = tmp_path / "s" / ragged.OFFSETS
    path.chmod(0o600)
    offsets = np.fromfile(path, np.int64)
    offsets[1500] = 0
    offsets.tofile(path)

    store = ragged.RaggedStore.open(tmp_path / "s")

    assert ragged.ragged_rows(store.offsets, np.asarray([3, 2999]))[0].tolist() == [3, 2999]
    with pytest.raises(ragged.StoreDamaged):
        ragged.ragged_rows(store.offsets, np.asarray([3, 1499]))
