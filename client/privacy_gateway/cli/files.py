"""Files that commands read: jobs, manifests, policies; JSON as strictly as the gateway reads it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from privacy_gateway.canonical import MAX_BYTES, loads_strict
from privacy_gateway.errors import Refused, invalid

STANDARD_INPUT = "-"


def read_json(file: Path, field: str) -> dict[str, Any]:
    """The JSON object in a file, `-` for standard input.

    Raises:
        Refused: `invalid_request` naming `field` when it is not there or not an object.
    """
    value = loads_strict(_bytes(file, field))
    if not isinstance(value, dict):
        raise invalid(field, "is not a JSON object")
    return value


def read_text(file: Path, field: str) -> str:
    """The text of a file; `invalid_request` naming `field` when there is none."""
    try:
        return _bytes(file, field).decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(field, f"{file} is not UTF-8 text") from error


def read_job(file: Path) -> dict[str, Any]:
    """A job body; also one wrapped as `{"job": …}` as quotes take it."""
    value = read_json(file, "job")
    inner = value.get("job")
    return inner if set(value) == {"job"} and isinstance(inner, dict) else value


def policy_sources(source: Path) -> tuple[str, str]:
    """A policy's text and its tests.

    `source` is a `.rego` file, with `<name>_test.rego` beside it as tests; or a directory that
    holds exactly one such pair.
    """
    if source.is_dir():
        found = [p for p in sorted(source.glob("*.rego")) if not p.stem.endswith("_test")]
        if len(found) != 1:
            raise invalid("source", f"{source} holds {len(found)} policies; name one file")
        source = found[0]
    tests = source.with_name(f"{source.stem}_test.rego")
    return read_text(source, "source"), read_text(tests, "tests") if tests.is_file() else ""


@contextmanager
def writing(file: Path, field: str = "output") -> Iterator[None]:
    """Around what writes `file`: a place that cannot be written is refused by its option."""
    try:
        yield
    except OSError as error:
        raise invalid(field, f"{file} cannot be written: {error.strerror}") from error


def _bytes(file: Path, field: str) -> bytes:
    try:
        if str(file) == STANDARD_INPUT:
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise invalid(field, f"{file} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise Refused("too_large", f"{file} is larger than {MAX_BYTES} bytes")
    return data
