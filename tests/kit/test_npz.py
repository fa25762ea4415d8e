"""Models as files: NumPy's own bytes, and nothing that is not a number."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kit import npz

NUMBERS = st.sampled_from(["<f4", "<f8", "<i8", "<i4", ">i2", "|u1", "|b1", "<c8"])
ARRAYS = NUMBERS.flatmap(
    lambda kind: npst.arrays(np.dtype(kind), npst.array_shapes(min_dims=0, min_side=0, max_side=4))
)
NAMES = st.text(st.sampled_from("abcz_09.é漢"), min_size=1, max_size=40).filter(
    lambda name: name != "file"
)


def savez(arrays: Mapping[str, Any]) -> bytes:
    """What NumPy itself writes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@given(st.dictionaries(NAMES, ARRAYS, max_size=5))
def test_the_bytes_are_those_of_savez(arrays: dict[str, Any]) -> None:
    written = npz.dump(arrays)
    assert written == savez(arrays)
    read = npz.load(written)
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert read[name].tobytes() == array.tobytes()


def test_the_order_in_memory_changes_nothing() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    columns = np.asfortranarray(array)
    every_second = np.repeat(array, 2, axis=2)[:, :, ::2]
    files = {npz.dump({"weight": each}) for each in (array, columns, every_second)}
    assert files == {savez({"weight": array})}


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]),
        np.array(["2026-11-22"], dtype="M8[D]"),
    ],
    ids=["objects", "text", "records", "dates"],
)
def test_numbers_alone_are_written(array: Any) -> None:
    with pytest.raises(TypeError, match="bad holds"):
        npz.dump({"good": np.ones(2), "bad": array})


def test_what_no_database_holds_is_refused_before_it_is_read() -> None:
    unread = np.zeros(npz.TOO_LARGE, np.uint8)
    with pytest.raises(ValueError, match="2 GiB"):
        npz.dump({"large": unread})
    halves = {"one": unread[: 1 << 30], "two": unread[: 1 << 30]}
    with pytest.raises(ValueError, match="2 GiB"):
        npz.dump(halves)


@pytest.mark.parametrize("name", ["cut\0short", "long" * (1 << 14)], ids=["zero", "long"])
def test_a_name_that_no_member_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name"):
        npz.dump({name: np.ones(1)})


def test_more_arrays_than_a_directory_counts_are_refused() -> None:
    one = np.ones(1, np.uint8)
    most = {str(number): one for number in range(npz.MOST_ARRAYS)}
    assert len(npz.load(npz.dump(most))) == npz.MOST_ARRAYS
    with pytest.raises(ValueError, match="more than"):
        npz.dump(most | {"one more": one})


def test_a_pickle_is_never_read() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        npz.load(buffer.getvalue())
