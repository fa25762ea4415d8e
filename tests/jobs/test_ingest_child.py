"""What the process that reads a hostile file may say, and how long it may take."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import ingest_child
from jobs.ingest_source import LIMITS
from privacy_gateway.errors import Refused
from privacy_gateway.manifest import Manifest

MANIFEST = Manifest(
    name="n", population="p", client="who", features=("x",), label="y", format="parquet"
)
HONEST: dict[str, Any] = {"rows": 2, "columns": [["<f4", [1]], ["<i8", []]], "test": False}


def _says(answer: object, scratch: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """What `read` makes of a child that says this: a real process, taken over by its file."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    return ingest_child.read(folder / "data.parquet", MANIFEST, scratch, LIMITS)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    place = tmp_path / "scratch"
    place.mkdir()
    np.ones(2, "<f4").tofile(place / "column-0.raw")
    np.ones(2, "<i8").tofile(place / "column-1.raw")
    np.arange(2).tofile(place / "ranks.raw")
    (place / "ids.json").write_text('["a","b"]')
    return place


def test_columns_of_numbers_are_taken(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records = _says(HONEST, scratch, monkeypatch, tmp_path).records
    assert records.features[0].tolist() == [[1.0], [1.0]]
    assert (records.label.tolist(), records.ids) == ([1, 1], ["a", "b"])


@pytest.mark.parametrize(
    "change",
    [
        {"columns": [["|O", []], ["<i8", []]]},  # its bytes would be addresses in this process
        {"columns": [["<f4", [1]], [[["a", "|O"]], []]]},
        {"columns": [["<f4", [1]], ["V8", []]]},
        {"columns": [["no type", [1]], ["<i8", []]]},
        {"columns": [["<f4", [10**6]], ["<i8", []]]},
        {"columns": []},
        {"columns": [["<f4", [1]]] * 3},  # the third has no file
        {"rows": -1},
        {"rows": None},
        {"code": "internal", "detail": "", "errors": []},
        {"code": "invalid_request", "detail": "", "errors": [{"place": "x"}]},
    ],
    ids=str,
)
def test_whatever_else_it_says_is_a_refusal_of_the_file(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(Refused) as caught:
        _says(HONEST | change, scratch, monkeypatch, tmp_path)
    assert [error.field for error in caught.value.errors] == ["source"]


@pytest.mark.parametrize("answer", [[], "", None, 7])
def test_an_answer_that_is_none_is_a_refusal_too(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: object
) -> None:
    with pytest.raises(Refused, match="intact"):
        _says(answer, scratch, monkeypatch, tmp_path)


def test_a_reader_that_never_ends_is_ended() -> None:
    program = "from jobs.ingest_child import _bound; _bound(4 << 30, 1)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
