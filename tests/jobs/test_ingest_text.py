"""Text becomes numbers by a public vocabulary, or is refused by its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit.ragged import RaggedStore
from tests.jobs.format_files import Files
from tests.support.owner_files import (
    example,
    framed,
    leaf,
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


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
