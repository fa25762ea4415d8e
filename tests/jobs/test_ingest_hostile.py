"""Hostile files are refused by name, before they cost anything, and leave nothing."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import ingest_csv
from jobs.ingest_source import LIMITS, Limits
from privacy_gateway.manifest import Manifest
from tests.jobs.npz_files import CSV, SECRET, Files, columns, csv_text


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Bomb:
    """Unpickling this would tell; nothing may unpickle it."""

    opened: list[str] = []

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Bomb.opened.append, ("boom",)


@pytest.mark.parametrize("column", ["x", "y", "who"])
def test_pickled_objects_are_refused_unopened(files: Files, column: str) -> None:
    source = files.npz(**{column: np.array([Bomb()] * 6, dtype=object)})
    field = {"x": "manifest.features[0]", "y": "manifest.label", "who": "manifest.client"}[column]
    assert "object" in files.refused(source, field).detail
    assert Bomb.opened == []


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"", pad: int = 0) -> bytes:
    """A .npy file with a chosen header, version 2.0."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * pad + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + data


def archive(files: Files, x: bytes, **options: Any) -> Path:
    """An NPZ whose member `x` is given byte for byte."""
    path = files.home / "made.npz"
    with zipfile.ZipFile(path, "w", **options) as target:
        for name in ("y", "who"):
            buffer = io.BytesIO()
            np.save(buffer, columns()[name])
            target.writestr(f"{name}.npy", buffer.getvalue())
        target.writestr("x.npy", x)
    return path


@pytest.mark.parametrize(
    "x",
    [
        npy("(6, 100000000000000)"),
        npy("(6, 2)", data=b"\0" * 47),
        npy("(6, 2)", data=b"\0" * 49),
        npy("(6, -2)"),
        npy("(True, 2)"),
        npy("6"),
        npy("__import__('os').system('true')"),
        npy("(6,)", descr="[('a', '<f4')]", data=b"\0" * 24),
        npy("(6,)", descr="'|V4'", data=b"\0" * 24),
        npy("(6, 2)", pad=50_000),
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x01\x00\x04\x00((((",  # no tokens, which is no error of syntax
        b"not an array",
        b"",
    ],
)
def test_lying_headers_are_refused(files: Files, x: bytes) -> None:
    files.refused(archive(files, x), "manifest.features[0]")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(files: Files) -> None:
    bomb = npy("(64000000,)", data=b"\0" * 256_000_000)
    source = archive(files, bomb, compression=zipfile.ZIP_DEFLATED)
    assert source.stat().st_size < 1_000_000
    refusal = files.refused(source, "source", limits=replace(LIMITS, unpacked_bytes=100_000_000))
    assert refusal.code == "too_large"


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (replace(LIMITS, file_bytes=100), "source"),
        (replace(LIMITS, members=2), "source"),
        (replace(LIMITS, rows=5), "manifest.features[0]"),
        (replace(LIMITS, row_elements=1), "manifest.features"),
        (replace(LIMITS, client_column_bytes=10), "manifest.client"),
    ],
)
def test_every_limit_holds(files: Files, limits: Limits, field: str) -> None:
    assert files.refused(files.npz(), field, limits=limits).code == "too_large"


def test_columns_that_nobody_named_are_not_kept(tmp_path: Path) -> None:
    """Cells are fifty times as large in memory: a file of a gigabyte took all there is."""
    others = 50_000
    source = tmp_path / "wide.csv"
    with source.open("w", encoding="ascii") as file:
        file.write("who,y,a" + "," * others + "\n")
        for row in range(40):
            file.write(f"p{row},1,2" + ",17" * others + "\n")
    manifest = Manifest(
        name="wide", population="pop_1", client="who", features=("a",), label="y", format="csv"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tracemalloc.start()
    try:
        found = ingest_csv.read(source, manifest, scratch, LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.records.rows == 40
    assert peak < 32 << 20


def damaged(source: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(source.read_bytes())
    change(data)
    source.write_bytes(data)
    return source


def test_a_truncated_archive_is_refused(files: Files) -> None:
    files.refused(damaged(files.npz(), lambda data: data.__delitem__(slice(200, None))), "source")


def test_a_flipped_bit_in_an_array_is_refused(files: Files) -> None:
    def flip(data: bytearray) -> None:
        at = bytes(data).index(columns()["x"].tobytes())
        data[at + 5] ^= 1

    files.refused(damaged(files.npz(), flip), "source")


def test_an_encrypted_archive_is_refused(files: Files) -> None:
    def encrypt(data: bytearray) -> None:
        for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            at = -1
            while (at := data.find(mark, at + 1)) >= 0:
                data[at + offset] |= 1

    files.refused(damaged(files.npz(), encrypt), "source")


def test_a_member_named_twice_is_refused(files: Files) -> None:
    source = files.npz()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(source, "a") as target:
        target.writestr("x.npy", b"")
    files.refused(source, "source")


@pytest.mark.parametrize("name", ["data.csv", "absent.npz"])
def test_what_is_no_archive_is_refused(files: Files, name: str) -> None:
    files.text(csv_text("a,1,2,0"))
    files.refused(files.home / name, "source")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "manifest.features[0]"),
        ("who,a,b\nc,1,2\n", "manifest.label"),
        ("who,a,a,b,y\nc,1,1,2,0\n", "manifest.features[0]"),
        ("who,a,b,y\n", "source"),
        (csv_text(f"c,{SECRET},2"), "source"),
        (csv_text(f"c,{SECRET},2,0,9"), "source"),
        (csv_text(f"c,{SECRET}x,2,0"), "manifest.features[0]"),
        (csv_text("c,1_0,2,0"), "manifest.features[0]"),
        (csv_text("c,nan,2,0"), "manifest.features[0]"),
        (csv_text("c,1e999,2,0"), "manifest.features[0]"),
        (csv_text("c,,2,0"), "manifest.features[0]"),
        (csv_text("c,1,2,"), "manifest.label"),
        (csv_text("c,1,2,1.5"), "manifest.label"),
        (csv_text("c,1,2,7"), "manifest.label"),
        (csv_text(" ,1,2,0"), "manifest.client"),
        (csv_text("x" * 2000 + ",1,2,0"), "manifest.client"),
        (csv_text('"c,1,2,0'), "source"),
        (csv_text('"c"x,1,2,0'), "source"),
        (b"who,a,b,y\nc\xff,1,2,0\n", "source"),
        (csv_text("c" + "1" * 2_000_000), "source"),
    ],
)
def test_bad_text_is_refused_without_repeating_it(
    files: Files, text: str | bytes, field: str
) -> None:
    files.refused(files.text(text), field, clients=1, **CSV)


def test_row_numbers_are_told_and_values_are_not(files: Files) -> None:
    lines = ["c,1,2,0", "c,1,2,0", f"c,1,{SECRET}!,0"]
    refusal = files.refused(files.text(csv_text(*lines)), "manifest.features[1]", clients=1, **CSV)
    assert "row 3" in refusal.detail


def test_text_limits_hold_while_streaming(files: Files) -> None:
    source = files.text(csv_text(*["c,1,2,0"] * 100))
    for limits in (replace(LIMITS, rows=99), replace(LIMITS, unpacked_bytes=8 * 99)):
        refusal = files.refused(source, "source", clients=1, limits=limits, **CSV)
        assert refusal.code == "too_large"


def test_byte_order_mark_blank_lines_and_crlf_are_ordinary(files: Files) -> None:
    text = "\ufeffwho, a ,b,y\r\n\r\nc,1,2,0\r\n"
    assert files.take(files.text(text), clients=1, **CSV).examples == 1
