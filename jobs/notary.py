"""Keeps the log: integrates entries, signs checkpoints, writes the witness, refuses old databases.

The gateway runs one `Notary` in its housekeeping; workers only compare at their start, so that the
signing key stays out of the process that runs beside the sandbox. The order of writing is what
makes the witness tell the truth: entries are committed, then the checkpoint over them, and only
then the witness is told. A witness ahead of its database can therefore only mean that the database
is an old one.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from accounting import log, log_keys, sequencer, witness
from accounting.errors import log_refused
from jobs.services import Services
from jobs.settings import Settings
from kit import log as logging
from kit.db import Database
from privacy_gateway.checkpoint import Signer
from privacy_gateway.errors import Refused

State = Literal["ok", "none", "absent", "down", "contradicts"]

_log = logging.get("log")


def require_not_rolled_back(database: Database, settings: Settings) -> witness.State:
    """Raise unless the database has everything that its witness has seen, unchanged.

    Raises:
        Refused: `unavailable` with a `reason`, saying what to do; see `accounting.witness.check`.
    """
    path = settings.witness()
    try:
        with database.read() as session:
            return witness.check(session, path)
    except OSError as error:
        raise log_refused(
            "witness_unreadable", f"the witness {path} cannot be read: {error.strerror}"
        ) from error


class Notary:
    """One pass after another, from one thread.

    Args:
        services: the outside world; settings name the keys and the witness.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._state: State = "none"

    @property
    def state(self) -> State:
        """How the last pass ended: `absent` and `down` say that the witness could not be had."""
        return self._state

    def open(self) -> None:
        """Compare with the witness and make the first key.

        Raises:
            Refused: `unavailable` with a `reason`, saying what to do.
        """
        found = require_not_rolled_back(self._services.database, self._services.settings)
        if found == "absent":
            _log.warning("witness_absent", path=str(self._services.settings.witness()))
        self._state = found
        self._signers()

    def step(self) -> None:
        """One pass. What is wrong with keys or witness is logged and shown, and never raised:
        jobs must not wait for it.
        """
        try:
            self._integrate()
            self._sign()
            self._state = "ok" if self._witness() else "none"
        except OSError as error:
            self._become("down", reason=error.strerror)
        except Refused as refusal:
            self._become("contradicts", reason=refusal.detail)
        except SQLAlchemyError as error:
            _log.warning("log_not_kept", reason=type(error).__name__)

    def _become(self, state: State, *, reason: str | None) -> None:
        if self._state != state:
            _log.error("log_not_kept", state=state, reason=reason)
        self._state = state

    def _integrate(self) -> None:
        database = self._services.database
        with database.read() as session:
            if not sequencer.waiting(session):
                return
        appended = sequencer.BATCH
        while appended == sequencer.BATCH:
            with database.unit_of_work() as session:
                appended = sequencer.integrate(session)

    def _sign(self) -> None:
        """Only a tree that the witness does not contradict is signed."""
        signers = self._signers()
        with self._services.database.read() as session:
            if not sequencer.unsigned(session, signers):
                return
            keys = [signer.verifier for signer in signers]
            witness.check(session, self._services.settings.witness(), keys)
        with self._services.database.unit_of_work() as session:
            sequencer.sign(session, signers, now=self._services.clock())

    def _witness(self) -> bool:
        with self._services.database.read() as session:
            newest = log.latest(session)
        if newest is None:
            return False
        path = self._services.settings.witness()
        if not witness.write(path, newest.note) and witness.read(path) != newest.note:
            # It has seen more than this database holds: the database has become an older one.
            with self._services.database.read() as session:
                witness.refuse_older(session, path)
        return True

    def _signers(self) -> list[Signer]:
        folder = self._services.settings.key_directory()
        if found := log_keys.signers(folder):
            return found
        with self._services.database.read() as session:
            newest = log.latest(session)
        return log_keys.first(folder, newest.origin if newest else log_keys.new_origin())
