"""The verbs of the ledger: open, reserve, charge, settle, void, expire, grant, freeze, deny.

Budget is money. Each verb locks the population, checks, and writes balance and entry in the
caller's transaction; none commits. A charge draws from a reservation and never more than is left
in it; what was charged is never refunded. Reading verbs are re-exported here, so callers import
`ledger` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from accounting import blocks, posting, quotas, reservations
from accounting.curve import Price
from accounting.errors import conflict, frozen
from accounting.export import entries, entry, export_lines
from accounting.mechanism import MAX_ROUNDS, check_count
from accounting.odometer import Odometer, odometer
from accounting.ownership import (
    deny,
    freeze,
    grant,
    note,
    open_population,
    set_second_person,
    unfreeze,
)
from accounting.posting import Balance, Entry, balance, balances, lock
from accounting.quotas import QuotaBalance, quota, set_quota
from accounting.reservations import Drawn, Held, held, renew_lease
from kit.clock import micros

__all__ = [
    "Balance",
    "Charge",
    "Entry",
    "Held",
    "Odometer",
    "QuotaBalance",
    "balance",
    "balances",
    "charge",
    "deny",
    "entries",
    "entry",
    "expire",
    "export_lines",
    "freeze",
    "grant",
    "held",
    "lock",
    "note",
    "odometer",
    "open_population",
    "quota",
    "renew_lease",
    "reserve",
    "set_quota",
    "set_second_person",
    "settle",
    "unfreeze",
    "void",
]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a charge took: fewer rounds than asked for when the reservation ran out.

    `entry` is None when nothing was left and nothing was written. `whole` says that the mechanism
    is charged at once and without refund (a tree, a banded matrix): `rounds_charged` then counts
    its charge units, and every round of the job is paid for.
    """

    rounds_charged: int
    entry: Entry | None
    whole: bool = False


def reserve(
    session: Session,
    balance: Balance,
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
) -> Entry:
    """Hold the whole cost of a job, if the budget and the quotas it draws on have room.

    Args:
        session: open transaction that holds the lock of `balance`.
        balance: from `lock` in this transaction.
        job_id: one reservation for ever.
        researcher_id: whose quota is debited too.
        price: of the plan's mechanism.
        rounds: charge units of the plan.
        facts: policy revision, decision, dataset, actor and the like; kept in the entry.
        now: time of the entry.
        lease_expires_at: after which `expire` may settle the job.
        project: whose quota is debited besides.
        block: whom the job is about; everybody when None.

    Raises:
        Refused: `frozen`, `budget_exceeded`, `quota_exceeded`, `price_overflow`;
            `invalid_request` for a mechanism that was priced for other people or that this
            population's filter cannot add up; `conflict` when the job already has a reservation
            or the balance has moved.
    """
    purse = reservations.purse(session, balance, researcher_id, project, block)
    drawn = reservations.affordable(purse, price, rounds)
    if held(session, job_id) is not None:
        raise conflict("the job already has a reservation", job=job_id)
    reservations.insert(
        session, purse, job_id, researcher_id, price, rounds, (now, lease_expires_at)
    )
    quotas.store_reserved(session, drawn.shares)
    blocks.store(session, drawn.block)
    body = (
        reservations.bearing(
            price.mechanism.canonical(),
            price.mechanism_digest,
            price.per_round,
            rounds,
            job_id,
            researcher_id,
            facts,
        )
        | drawn.facts()
    )
    return posting.post(session, balance, drawn.balance, kind="reserve", now=now, body=body)


def charge(
    session: Session,
    *,
    job_id: str,
    round_first: int,
    rounds: int,
    attempt: int,
    fence: int,
    facts: Mapping[str, Any],
    now: datetime,
) -> Charge:
    """Spend a block of rounds from the job's reservation, before its data is opened.

    A block run again is a new attempt and a new charge. Takes what is left when that is less than
    asked for, and nothing when the reservation is empty or closed. A mechanism that is charged
    whole takes everything at once.

    Args:
        session: open transaction; the caller commits before any data is touched.
        job_id: whose reservation.
        round_first: first round of the block, from 1.
        rounds: length of the block.
        attempt: from 1; (job, round, attempt) is charged at most once.
        fence: of the worker; a lower one than seen before is refused.
        facts: policy decision, dataset version, engine versions; kept in the entry.
        now: time of the entry.

    Raises:
        Refused: `frozen`; `not_found` for a job without reservation; `conflict` for a stale fence
            or a round charged before in this attempt.
    """
    for field, value in (("round_first", round_first), ("rounds", rounds), ("attempt", attempt)):
        check_count(field, value, MAX_ROUNDS)
    purse, present = reservations.lock_purse(session, job_id)
    before = purse.balance
    if before.frozen:
        raise frozen(before.population_id)
    if fence < present.fence:
        raise conflict("a newer worker holds the job", job=job_id, fence=present.fence)
    taken = present.rounds_left if present.whole else min(rounds, present.rounds_left)
    if taken == 0:
        return Charge(0, None, present.whole)
    reservations.refuse_second_charge(session, job_id, round_first, taken, attempt)
    drawn = purse.moved(spend=present.cost(taken))
    reservations.draw(
        session,
        job_id,
        rounds_charged=present.rounds_charged + taken,
        fence=fence,
        closed=False,
    )
    _store(session, drawn)
    body = reservations.bearing(
        present.mechanism,
        present.mechanism_digest,
        present.per_round,
        taken,
        job_id,
        present.researcher_id,
        facts,
    ) | {"round_first": round_first, "attempt": attempt, "fence": fence}
    body |= drawn.facts()
    entry = posting.post(session, before, drawn.balance, kind="charge", now=now, body=body)
    return Charge(taken, entry, present.whole)


def settle(
    session: Session, *, job_id: str, reason: str, facts: Mapping[str, Any], now: datetime
) -> Entry | None:
    """Close a job's reservation and give its uncharged rest back; None when already closed.

    The entry is of kind `void`, with 0 rounds when everything was charged.

    Raises:
        Refused: `not_found` for a job without reservation.
    """
    purse, present = reservations.lock_purse(session, job_id)
    if present.closed:
        return None
    left = present.rounds_left
    drawn = purse.moved(release=present.cost(left))
    reservations.draw(
        session,
        job_id,
        rounds_charged=present.rounds_charged,
        fence=present.fence,
        closed=True,
    )
    _store(session, drawn)
    body = reservations.bearing(
        present.mechanism,
        present.mechanism_digest,
        present.per_round,
        left,
        job_id,
        present.researcher_id,
        facts,
    ) | {"reason": reason, "rounds_charged": present.rounds_charged}
    body |= drawn.facts()
    return posting.post(session, purse.balance, drawn.balance, kind="void", now=now, body=body)


def void(
    session: Session, *, job_id: str, reason: str, facts: Mapping[str, Any], now: datetime
) -> Entry | None:
    """Give a whole reservation back, of a job that never charged a round.

    Raises:
        Refused: `conflict` when a round was charged; use `settle`.
    """
    _, present = reservations.lock_job(session, job_id)
    if present.rounds_charged > 0:
        raise conflict("rounds were charged; the job can only be settled", job=job_id)
    return settle(session, job_id=job_id, reason=reason, facts=facts, now=now)


def expire(
    session: Session, *, job_id: str, facts: Mapping[str, Any], now: datetime
) -> Entry | None:
    """Settle a job whose lease has run out, by the same rules.

    Raises:
        Refused: `conflict` while the lease still runs.
    """
    _, present = reservations.lock_job(session, job_id)
    if not present.closed and present.lease_expires_at > micros(now):
        raise conflict("the lease still runs", job=job_id)
    return settle(session, job_id=job_id, reason="expired", facts=facts, now=now)


def _store(session: Session, drawn: Drawn) -> None:
    """Write what a charge or a settlement moved beside the population."""
    quotas.store(session, drawn.shares)
    blocks.store(session, drawn.block)
