"""Restoring a backup without giving back budget that was spent since.

A restored database is an old one. It is held against the witness that stands, and where it lacks
entries that the witness has seen, only an export that contains them brings it up to date: each is
replayed and has to come out with the seal it had, the log has to lead to the witness's own root,
and every reservation that was open then is charged in full. Without such an export nothing is
restored. This module must never touch the witness, or accept a database that the gateway would
refuse.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from accounting import log, log_keys, recovery, witness
from accounting.errors import log_refused
from gateway import backup, schema
from jobs import recovery as job_recovery
from jobs.settings import Settings
from kit.db import Database
from kit.patience import let_alone
from privacy_gateway import checkpoint, tabular
from privacy_gateway.checkpoint import BadNote
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import verify

ACTOR: Final = "operator"


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done: entries written back, jobs that ended, jobs charged in full, the witness."""

    entries: int
    written_back: int
    jobs_ended: tuple[str, ...]
    forfeited: tuple[str, ...]
    witness: witness.State


@dataclass(frozen=True, slots=True)
class Asking:
    """What the operator wants.

    Attributes:
        folder: the backup; None where the database was already put back by other means.
        export: a newer export of the whole ledger.
        replace: move a database that is there aside (SQLite).
        without_witness: go on although there is no witness to compare with.
    """

    folder: Path | None
    export: Path | None = None
    replace: bool = False
    without_witness: bool = False


def restore(settings: Settings, asking: Asking, *, now: datetime) -> Restored:
    """Put a backup in place, complete it, and compare it with the witness.

    Raises:
        Refused: `unavailable` with reason `rolled_back` when entries are missing and no export
            was given, and the reasons of `accounting.witness.check`; `invalid_request` naming
            `folder`, `export` or `without_witness`; `conflict` while a gateway runs, when the
            database is not empty, or when an entry cannot be replayed.
    """
    note = witness.read(settings.witness())
    if note is None and not asking.without_witness:
        message = (
            f"there is no witness at {settings.witness()}, so nobody can say whether this is the"
            " newest database; put the witness back, or say --without-witness"
        )
        raise invalid("without_witness", message)
    with _alone(settings.state_dir):
        if asking.folder is None:
            return _complete(settings, Database(settings.database()), asking, now)
        manifest = backup.read(asking.folder)
        _check_early(settings, manifest, note, asking)
        put = _put_sqlite if manifest["database"] == "sqlite" else _put_postgresql
        restored = put(settings, asking, now)
        _put_data(settings, asking.folder)
        return restored


def _check_early(
    settings: Settings, manifest: dict[str, Any], note: str | None, asking: Asking
) -> None:
    """Refuse what cannot come to a good end before anything is written."""
    wanted = Database(settings.database())
    wanted.close()
    if wanted.url.get_backend_name() != manifest["database"]:
        message = f"is a backup of {manifest['database']}; DATABASE_URL names another kind"
        raise invalid("folder", message)
    if note is None or asking.export is not None:
        return
    seen = checkpoint.parse(note).checkpoint.size
    if seen > manifest["entries"]:
        raise rolled_back(settings.witness(), seen, manifest["entries"])


def rolled_back(path: Path, seen: int, have: int) -> Refused:
    """The backup has forgotten spending, and how to bring it back."""
    return log_refused(
        "rolled_back",
        f"the backup holds {have} ledger entries and the witness {path} has seen {seen}. Give an"
        " export of the whole ledger that contains them: restore … --export NEWER (an auditor's"
        " newest `ledger export` will do). Nothing was restored",
        entries=have,
        witnessed=seen,
    )


def _put_sqlite(settings: Settings, asking: Asking, now: datetime) -> Restored:
    """Completed beside the place of the database, and moved there only when all is well."""
    assert asking.folder is not None  # noqa: S101 - the caller has one
    target = Path(str(Database(settings.database()).url.database))
    if target.exists() and not asking.replace:
        raise Refused("conflict", f"{target} is there; move it away, or say --replace")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.restoring")
    _forget(staging)
    try:
        shutil.copyfile(asking.folder / backup.DATABASES["sqlite"], staging)
        staging.chmod(0o600)
        restored = _complete(settings, Database(f"sqlite:///{staging}"), asking, now)
        with closing(sqlite3.connect(staging)) as connection:
            # Everything is in the one file that is moved, nothing in a log beside it.
            connection.execute("PRAGMA journal_mode=DELETE")
        _set_aside(target, now)
        staging.rename(target)
    finally:
        _forget(staging)
    return restored


def _put_postgresql(settings: Settings, asking: Asking, now: datetime) -> Restored:
    """Into an empty database, in one transaction."""
    assert asking.folder is not None  # noqa: S101 - the caller has one
    database = Database(settings.database())
    if sa.inspect(database.engine).get_table_names():
        database.close()
        detail = "the database of DATABASE_URL is not empty; create a new one and name that"
        raise Refused("conflict", detail)
    backup.run_server_program(
        database,
        "pg_restore",
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "--single-transaction",
        str(asking.folder / backup.DATABASES["postgresql"]),
    )
    return _complete(settings, database, asking, now)


def _complete(settings: Settings, database: Database, asking: Asking, now: datetime) -> Restored:
    """Bring the schema and the ledger up to date, and compare with the witness."""
    try:
        schema.upgrade(database)
        with database.unit_of_work() as session:
            let_alone(session.connection())
            lost = recovery.Missing()
            if asking.export is not None:
                _check_export(settings, session, asking.export)
                with _lines(asking.export) as lines:
                    lost = recovery.missing(session, lines)
            done = recovery.Recovered(0, ())
            ended: list[str] = []
            if lost.entries:
                done = recovery.recover(session, lost, now=now, actor_id=ACTOR)
                ended = job_recovery.end_all(session, now=now)
            keys = [signer.verifier for signer in log_keys.signers(settings.key_directory())]
            # Inside the transaction: what the witness contradicts is not even written.
            found = witness.check(session, settings.witness(), keys)
            entries = sum(seq for _, seq, _ in recovery.heads(session))
        return Restored(entries, done.entries, tuple(ended), done.forfeited, found)
    finally:
        database.close()


def _check_export(settings: Settings, session: Any, export: Path) -> None:
    """It contains all that the database has and all that the witness has seen, undamaged."""
    known = [*log.verifiers(session)]
    known += [signer.verifier for signer in log_keys.signers(settings.key_directory())]
    note = witness.read(settings.witness())
    keys = {str(key): key for key in known}
    if note is not None:
        # A key that was added since the backup is believed where the witness shows a known one.
        try:
            checkpoint.verify(note, [*keys.values()])
        except BadNote as error:
            detail = f"no key that this gateway knows signed the witness: {error.detail}"
            raise log_refused("witness_damaged", detail) from error
    asked = Asked(keys=tuple(keys.values()), older=note)
    with _lines(export) as lines:
        report = verify(lines, expect_heads=recovery.heads(session), asked=asked)
    if not report.ok:
        first = report.problems[0]
        raise invalid("export", f"{first.kind} at line {first.line}: {first.detail}")


@contextmanager
def _lines(export: Path) -> Iterator[Iterable[bytes]]:
    try:
        with tabular.opened(export) as lines:
            yield lines
    except OSError as error:
        raise invalid("export", f"{export} cannot be read: {error.strerror}") from error


def _put_data(settings: Settings, folder: Path) -> None:
    """Stores that are not there; a store that is there is never replaced."""
    stores = folder / backup.DATA
    for store in sorted(stores.iterdir()) if stores.is_dir() else []:
        target = settings.state_dir / backup.DATA / store.name
        if not target.exists():
            shutil.copytree(store, target)
    for name in backup.KEYS:
        key, there = folder / name, settings.state_dir / name
        if key.is_file() and not there.exists():
            shutil.copy2(key, there)


def _set_aside(target: Path, now: datetime) -> None:
    """Keep the old database, and the log that belongs to it, under another name."""
    for suffix in ("", "-wal", "-shm"):
        path = target.with_name(target.name + suffix)
        if path.exists():
            path.rename(target.with_name(f"{target.name}.before-{now:%Y%m%dT%H%M%S}{suffix}"))


def _forget(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """No supervisor runs on this state directory meanwhile."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "lock").open("a", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            detail = "a gateway runs on this state directory; stop it first"
            raise Refused("conflict", detail) from error
        yield
