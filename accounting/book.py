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

from accounting import blocks, posting, quotas, reservations
from accounting.blocks import EVERYBODY, Block, Target
from accounting.curve import Price
from accounting.ownership import denial
from accounting.posting import Balance
from accounting.quotas import Kind, QuotaBalance
from accounting.reservations import Drawn, Purse
from kit import prepared
from kit.prepared import Asked, Prepared

_Holder = tuple[str, Kind, str]
_SPEND = Prepared(blocks.MOVE, "charged", "reserved")


class Book:
    """The balances of some locked populations and what was decided on them so far.

    Args:
        balances: from `ledger.lock` in the transaction that will write.
    """

    def __init__(self, balances: Mapping[str, Balance]) -> None:
        self._locked = dict(balances)
        self._now = dict(balances)
        self._shares: dict[_Holder, QuotaBalance] = {}
        self._touched: set[_Holder] = set()
        self._blocks: dict[str, dict[str, Block]] = {}
        self._moved: set[tuple[str, str]] = set()
        self._entries: list[dict[str, Any]] = []
        self._reservations: list[dict[str, Any]] = []

    def know(self, shares: Iterable[QuotaBalance]) -> None:
        """Take in shares as read under the lock; a researcher or project without one has none."""
        for share in shares:
            self._shares[share.population_id, share.kind, share.holder_id] = share

    def know_blocks(self, population_id: str, blocks: Iterable[Block]) -> None:
        """Take in all blocks of a population, as read under the lock."""
        self._blocks[population_id] = {block.name: block for block in blocks}

    def balance(self, population_id: str) -> Balance:
        """The budget after everything decided so far."""
        return self._now[population_id]

    def share(self, population_id: str, holder_id: str, kind: Kind = "researcher") -> QuotaBalance:
        """A holder's spending after everything decided so far."""
        key = (population_id, kind, holder_id)
        if key not in self._shares:
            self._shares[key] = quotas.nothing(population_id, holder_id, kind)
        return self._shares[key]

    def target(self, population_id: str, block: str | None) -> Target:
        """Whom a cost counts for, after everything decided so far.

        Raises:
            KeyError: the population's blocks are not known; nothing may be decided without them.
        """
        if block is not None:
            return Target(block, (self._blocks[population_id][block],))
        if not self.balance(population_id).blocks:
            return EVERYBODY
        return Target(None, tuple(self._blocks[population_id].values()))

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
        project: str | None = None,
        block: str | None = None,
    ) -> None:
        """Hold the whole cost of a job; see `ledger.reserve`.

        Raises:
            Refused: as `ledger.reserve`, and nothing is changed; a job that has a reservation
                already is found by the database when the book is written.
        """
        before = self.balance(population_id)
        shares = [self.share(population_id, researcher_id)]
        if project is not None:
            shares.append(self.share(population_id, project, "project"))
        purse = Purse(before, tuple(shares), self.target(population_id, block))
        drawn = reservations.affordable(purse, price, rounds)
        body = reservations.whose(job_id, researcher_id, facts) | {"rounds": rounds}
        priced = reservations.written(price, rounds)
        self._post(before, drawn.balance, "reserve", now, body | drawn.facts(), priced)
        self._take(drawn)
        self._reservations.append(
            reservations.row(purse, job_id, researcher_id, price, rounds, (now, lease_expires_at))
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
        """Store everything decided; see `writing`."""
        prepared.ask(session, *self.writing())

    def writing(self) -> list[Asked[None]]:
        """What stores balances, entries, reservations and shares, one statement a table.

        Whoever takes it runs it, once, in the transaction that holds the locks. It raises `Refused`
        (`conflict`) when a budget has moved since it was locked, and `IntegrityError` when a job
        has a reservation already.
        """
        parts = [
            posting.storing(locked, self._now[population_id])
            for population_id, locked in self._locked.items()
            if self._now[population_id] is not locked
        ]
        tables = ((posting.APPEND, self._entries), (reservations.INSERT, self._reservations))
        parts.append(prepared.nothing([(table, rows) for table, rows in tables if rows]))
        touched = [self._shares[key] for key in sorted(self._touched)]
        parts.append(quotas.storing_reserved(touched))
        moved = [self._blocks[population_id][name] for population_id, name in sorted(self._moved)]
        parts.append(prepared.nothing([(_SPEND, _spent(block)) for block in moved]))
        self._locked = dict(self._now)
        self._entries, self._reservations, self._touched = [], [], set()
        self._moved = set()
        return parts

    def _take(self, drawn: Drawn) -> None:
        for share in drawn.shares:
            key = (share.population_id, share.kind, share.holder_id)
            self._shares[key] = share
            self._touched.add(key)
        if drawn.block is not None:
            population_id, name = drawn.block.population_id, drawn.block.name
            self._blocks[population_id][name] = drawn.block
            self._moved.add((population_id, name))

    def _post(
        self,
        before: Balance,
        after: Balance,
        kind: str,
        now: datetime,
        body: Mapping[str, Any],
        written: Mapping[str, bytes] | None = None,
    ) -> None:
        row = posting.sealed(before, after, kind=kind, now=now, body=body, written=written)
        self._entries.append(row)
        self._now[before.population_id] = replace(
            after, version=before.version + 1, head_seq=row["seq"], head_hash=row["hash"]
        )


def _spent(block: Block) -> dict[str, Any]:
    key = {"of_population": block.population_id, "of_block": block.name}
    return {**key, "charged": block.charged, "reserved": block.reserved}
