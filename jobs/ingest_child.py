"""Reads an owner's file in a process of its own, where the reader is somebody else's C++.

Arrow ends the whole process at some damaged footers, and what a hostile file can do to it nobody
knows. So a child with bounded memory and time and an empty environment reads, columns travel as
files of scratch space, and a child that dies, or says what its reader cannot have found, is a
refusal of the file. The gateway's process must never import the reader, and never take from the
child anything but numbers.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from jobs.ingest_source import SOURCE, Array, Limits, Records, Source, of_this_machine
from kit.process import spawn
from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.manifest import Manifest

_HOME: Final = Path(__file__).resolve().parent.parent
_RANKS: Final = "ranks.raw"
_TESTS: Final = "tests.raw"
_IDS: Final = "ids.json"
_BASE_BYTES: Final = 4 << 30
# The largest file that is taken is read in minutes.
_PROCESSOR_SECONDS: Final = 3600
_NUMBERS: Final = "biuf"
_REFUSALS: Final = ("invalid_request", "too_large")


def read(path: Path, manifest: Manifest, scratch: Path, limits: Limits) -> Source:
    """What `jobs.ingest_parquet.read` gives and refuses, whatever the file does to its reader."""
    task = {
        "path": str(path.resolve()),
        "manifest": manifest.model_dump(mode="json"),
        "scratch": str(scratch.resolve()),
        "limits": asdict(limits),
    }
    child = spawn(
        [sys.executable, "-m", __name__],
        cwd=_HOME,
        env={"PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        try:
            told, _ = child.communicate(json.dumps(task).encode())
        except BaseException:
            child.kill()
            raise
    refusal = invalid(SOURCE, f"the file is not an intact {manifest.format} file")
    if child.returncode != 0:
        raise refusal
    try:
        return _taken(json.loads(told), scratch)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        if of_this_machine(error):
            raise
        raise refusal from error


def _taken(answer: dict[str, Any], scratch: Path) -> Source:
    """The child's columns, mapped; its refusal, raised."""
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    if "code" in answer:
        if answer["code"] not in _REFUSALS:
            raise ValueError(f"Expected a refusal of a file, not {answer['code']}")
        errors = [FieldError(**error) for error in answer["errors"]]
        raise Refused(answer["code"], answer["detail"], errors=errors)
    rows = int(answer["rows"])
    *features, label = (
        _mapped(scratch / f"column-{number}.raw", np.dtype(kind), (rows, *shape))
        for number, (kind, shape) in enumerate(answer["columns"])
    )
    ranks = _mapped(scratch / _RANKS, np.dtype(np.int64), (rows,))
    test = _mapped(scratch / _TESTS, np.dtype(np.bool_), (rows,)) if answer["test"] else None
    ids = json.loads((scratch / _IDS).read_bytes())
    return Source(Records(tuple(features), label, ranks, test, ids))


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A column of scratch space, read-only; of objects its bytes would be addresses."""
    if kind.kind not in _NUMBERS:
        raise ValueError(f"Expected a column of numbers, not {kind}")
    found: Array = np.memmap(path, kind, "r", shape=shape)
    return found


def _bound(most_bytes: int, seconds: int) -> None:
    """Limits of this process: address space, processor time, no core file."""
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    """Read in this process, and say what came of it."""
    # Imported here: the parent imports this module and must do without Arrow.
    from jobs import ingest_parquet

    limits, scratch = Limits(**task["limits"]), Path(task["scratch"])
    _bound(_BASE_BYTES + 4 * limits.row_group_bytes, _PROCESSOR_SECONDS)
    manifest = Manifest.model_validate(task["manifest"])
    try:
        records = ingest_parquet.read(Path(task["path"]), manifest, scratch, limits).records
        records.client.tofile(scratch / _RANKS)
        if records.test is not None:
            records.test.tofile(scratch / _TESTS)
        (scratch / _IDS).write_text(json.dumps(list(records.ids or ())), encoding="ascii")
    except Refused as refusal:
        errors = [asdict(error) for error in refusal.errors]
        return {"code": refusal.code, "detail": refusal.detail, "errors": errors}
    except OSError as error:
        if not of_this_machine(error):
            raise
        return {"errno": error.errno}
    columns = [*records.features, records.label]
    return {
        "rows": records.rows,
        "columns": [[column.dtype.str, list(column.shape[1:])] for column in columns],
        "test": records.test is not None,
    }


if __name__ == "__main__":
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)
