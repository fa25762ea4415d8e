"""Locked budgets carried on in memory: many entries decided one after the other, written at once.

A group of admissions locks each budget once, lets the filter decide request after request on the
vectors in memory, and chains the entries by seq and hash; `write` then stores everything with one
statement a table. What is decided here is what `ledger.reserve` and `ledger.deny` would decide in
the same order, because all of them ask `reservations.affordable` and seal by `posting.sealed`.
A refused request leaves the book as it was. This module must never hold a budget that is not
locked, and nothing it holds is true before `write` and the caller's commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from accounting import posting, quotas, reservations
from accounting.curve import Price
from accounting.ownership import denial
from accounting.posting import Balance
from accounting.quotas import QuotaBalance


class Book:
    """The balances of some locked populations and what was decided on them so far.

    Args:
        balances: from `ledger.lock` in the transaction that will write.
    """

    def __init__(self, balances: Mapping[str, Balance]) -> None:
        self._locked = dict(balances)
        self._now = dict(balances)
        self._shares: dict[tuple[str, str], QuotaBalance] = {}
        self._touched: set[tuple[str, str]] = set()
        self._entries: list[dict[str, Any]] = []
        self._reservations: list[dict[str, Any]] = []

    def know(self, shares: Iterable[QuotaBalance]) -> None:
        """Take in researchers' shares as read under the lock; a researcher without one has none."""
        for share in shares:
            self._shares[share.population_id, share.researcher_id] = share

    def balance(self, population_id: str) -> Balance:
        """The budget after everything decided so far."""
        return self._now[population_id]

    def share(self, population_id: str, researcher_id: str) -> QuotaBalance:
        """The researcher's spending after everything decided so far."""
        key = (population_id, researcher_id)
        if key not in self._shares:
            self._shares[key] = quotas.nothing(population_id, researcher_id)
        return self._shares[key]

    def reserve(
        self,
        population_id: str,
        *,
        job_id: str,
        researcher_id: str,
        price: Price,
        rounds: int,
        facts: Mapping[str, Any],
        now: datetime,
        lease_expires_at: datetime,
    ) -> None:
        """Hold the whole cost of a job; see `ledger.reserve`.

        Raises:
            Refused: as `ledger.reserve`, and nothing is changed; a job that has a reservation
                already is found by the database when the book is written.
        """
        before = self.balance(population_id)
        share = self.share(population_id, researcher_id)
        after, share_after = reservations.affordable(before, share, price, rounds)
        body = reservations.bearing(
            price.mechanism.canonical(),
            price.mechanism_digest,
            price.per_round,
            rounds,
            job_id,
            researcher_id,
            facts,
        )
        self._post(before, after, "reserve", now, body)
        self._shares[population_id, researcher_id] = share_after
        self._touched.add((population_id, researcher_id))
        self._reservations.append(
            reservations.row(before, job_id, researcher_id, price, rounds, (now, lease_expires_at))
        )

    def deny(
        self,
        population_id: str,
        *,
        job_id: str,
        researcher_id: str,
        code: str,
        facts: Mapping[str, Any],
        now: datetime,
        price: Price,
        rounds: int,
    ) -> None:
        """Record a refused job; see `ledger.deny`."""
        before = self.balance(population_id)
        body = denial(job_id, researcher_id, code, facts, price, rounds)
        self._post(before, before, "deny", now, body)

    def write(self, session: Session) -> None:
        """Store balances, entries, reservations and shares, one statement a table.

        Raises:
            Refused: `conflict` when a budget has moved since it was locked.
            IntegrityError: a job has a reservation already.
        """
        for population_id, locked in self._locked.items():
            present = self._now[population_id]
            if present is not locked:
                posting.store(session, locked, present)
        connection = session.connection()
        for statement, rows in (
            (posting.APPEND, self._entries),
            (reservations.INSERT, self._reservations),
        ):
            if rows:
                connection.execute(statement, rows)
        quotas.store_reserved(session, [self._shares[key] for key in sorted(self._touched)])
        self._locked = dict(self._now)
        self._entries, self._reservations, self._touched = [], [], set()

    def _post(
        self, before: Balance, after: Balance, kind: str, now: datetime, body: Mapping[str, Any]
    ) -> None:
        row = posting.sealed(before, after, kind=kind, now=now, body=body)
        self._entries.append(row)
        self._now[before.population_id] = replace(
            after, version=before.version + 1, head_seq=row["seq"], head_hash=row["hash"]
        )
