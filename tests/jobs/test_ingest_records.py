"""TFRecord and LEAF: what other programs wrote is read, what lies is refused by its member."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.ingest_source import LIMITS
from kit.ragged import RaggedStore
from privacy_gateway.errors import Refused
from tests.jobs.format_files import Files
from tests.support.owner_files import (
    example,
    framed,
    leaf,
    packed,
)

# Written by TensorFlow 2.21: two Examples with floats, whole numbers of every length, and text.
BY_TENSORFLOW = (
    "YAAAAAAAAAAoIcbaCl4KHAoBbhIXGhUKEwH///////////8BrAKAgICAgCAKDwoGcHVibGljEgUaAwoBAAoOCgN3aG8S"
    "BwoFCgNhbm4KEQoBeBIMEgoKCAAAAD8AAKC/CgoKAXkSBRoDCgECSwnWgFsAAAAAAAAAGwECigpZChcKAW4SEhoQCg4A"
    "f4ABgICAgICAgICAAQoPCgZwdWJsaWMSBRoDCgEBCg4KA3dobxIHCgUKA2JvYgoRCgF4EgwSCgoIAABAQAAAgEAKCgoB"
    "eRIFGgMKAQAPYQ6r"
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


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
