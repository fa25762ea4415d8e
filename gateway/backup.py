"""A backup while the gateway runs: one consistent database, and what is needed to judge it later.

SQLite is copied by its own online backup, PostgreSQL by `pg_dump` under an exported snapshot; the
manifest is read from that very snapshot. The witness is copied for comparison only: a restore is
held against the witness that stands, never against this copy. Private keys of the log are never
copied: whoever finds a backup could sign a false history with them, and a restored gateway makes
another key of the same log.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import log, recovery, witness
from gateway import schema
from jobs import ingest, members
from jobs.settings import Settings
from jobs.tables_datasets import Dataset
from kit.clock import rfc3339
from kit.db import Database
from kit.patience import let_alone
from privacy_gateway.errors import Refused, invalid

FORMAT: Final = "privacy-gateway-backup/1"
MANIFEST: Final = "manifest.json"
DATABASES: Final[Mapping[str, str]] = {
    "sqlite": "database.sqlite3",
    "postgresql": "database.pgdump",
}
WITNESS: Final = "witness"
DATA: Final = "datasets"
KEYS: Final = (ingest.KEY_FILE, members.KEY_FILE)

_DATASET = Dataset.__table__  # type: ignore[attr-defined]


def make(
    settings: Settings, database: Database, folder: Path, *, now: datetime, with_data: bool
) -> dict[str, Any]:
    """Write a backup into a new folder; answers its manifest.

    Args:
        settings: where state and witness are.
        database: of a gateway that may be running.
        folder: must not exist; it appears once everything is in it.
        now: time of the backup.
        with_data: copy client stores and the key of their digests too.

    Raises:
        Refused: `invalid_request` naming `folder`; `unavailable` where `pg_dump` is missing or
            fails, or the database is not this version's.
    """
    if folder.exists():
        raise invalid("folder", f"{folder} is there already; name a new one")
    schema.require_current(database)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    copy = _sqlite if database.is_sqlite else _postgresql
    told = copy(database, partial)
    if (note := witness.read(settings.witness())) is not None:
        (partial / WITNESS).write_text(note, encoding="utf-8")
    if with_data:
        _copy_data(settings, partial)
    manifest = {
        "format": FORMAT,
        "made_at": rfc3339(now),
        "database": database.url.get_backend_name(),
        "schema": schema.current(database),
        **told,
        "with_data": with_data,
        "files": {name: digest(partial / name) for name in files(partial)},
    }
    text = json.dumps(manifest, indent=2, sort_keys=True)
    (partial / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
    partial.rename(folder)
    return manifest


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a backup whose files are what they were.

    Raises:
        Refused: `invalid_request` naming `folder`.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise invalid("folder", f"{folder} is no backup: {MANIFEST} cannot be read") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise invalid("folder", f"{folder} is no {FORMAT}")
    present = set(files(folder)) - {MANIFEST}
    for name in sorted(present ^ manifest["files"].keys()):
        raise invalid("folder", f"{name} is {'unknown' if name in present else 'missing'}")
    for name, stated in manifest["files"].items():
        if digest(folder / name) != stated:
            raise invalid("folder", f"{name} is not the file that was backed up")
    return manifest


def files(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def server_program(name: str) -> str:
    """`pg_dump` or `pg_restore`: on PATH, else the newest in Debian's place.

    Raises:
        Refused: `unavailable` where there is none.
    """
    if found := shutil.which(name):
        return found
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not places:
        detail = f"{name} is not on this machine; install PostgreSQL's client programs"
        raise Refused("unavailable", detail)
    return str(places[-1])


def run_server_program(database: Database, name: str, *options: str) -> None:
    """Run one of them against the database; a password never stands on a command line.

    Raises:
        Refused: `unavailable` with what it said.
    """
    url = database.url
    command = [server_program(name), *options, f"--dbname={url.database}"]
    host = url.host or url.query.get("host")
    command += [f"--host={host}"] if host else []
    command += [f"--port={url.port}"] if url.port else []
    command += [f"--username={url.username}", "--no-password"] if url.username else []
    secret = {} if url.password is None else {"PGPASSWORD": str(url.password)}
    done = subprocess.run(
        command, env={**os.environ, **secret}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Refused("unavailable", f"{name} failed: {done.stderr.strip()[-500:]}")


def _sqlite(database: Database, folder: Path) -> dict[str, Any]:
    path = folder / DATABASES["sqlite"]
    with (
        closing(sqlite3.connect(str(database.url.database))) as source,
        closing(sqlite3.connect(path)) as copy,
    ):
        source.backup(copy)
        # One file, without a log beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
        (found,) = copy.execute("PRAGMA integrity_check").fetchone()
    if found != "ok":
        raise Refused("unavailable", f"the copy of the database is damaged: {found}")
    engine = sa.create_engine(f"sqlite:///{path}")
    try:
        with Session(engine) as session:
            return _told(session)
    finally:
        engine.dispose()


def _postgresql(database: Database, folder: Path) -> dict[str, Any]:
    """Dump and manifest see one snapshot."""
    with _snapshot(database) as (session, name):
        run_server_program(
            database,
            "pg_dump",
            "--format=custom",
            "--no-owner",
            f"--snapshot={name}",
            f"--file={folder / DATABASES['postgresql']}",
        )
        return _told(session)


@contextmanager
def _snapshot(database: Database) -> Iterator[tuple[Session, str]]:
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="REPEATABLE READ")
        let_alone(connection)
        name = str(connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one())
        with Session(connection) as session:
            yield session, name


def _told(session: Session) -> dict[str, Any]:
    """What the ledger was, to be compared with a witness before anything is restored."""
    newest = log.latest(session)
    datasets = sa.select(_DATASET.c.id, _DATASET.c.digest, _DATASET.c.store_path)
    return {
        "entries": log.size(session),
        "checkpoint": None if newest is None else newest.note,
        "heads": [list(head) for head in sorted(recovery.heads(session))],
        "datasets": [
            {"id": row.id, "digest": row.digest, "store": row.store_path}
            for row in session.execute(datasets.order_by(_DATASET.c.id))
        ],
    }


def _copy_data(settings: Settings, folder: Path) -> None:
    """Client stores never change once written, so a copy after the database has them all."""
    stores = settings.state_dir / DATA
    if stores.is_dir():
        shutil.copytree(stores, folder / DATA)
    for name in KEYS:
        key = settings.state_dir / name
        if key.is_file():
            shutil.copy2(key, folder / name)
