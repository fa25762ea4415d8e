"""What owners do to a budget, and what is only recorded: open, grant, freeze, deny, note.

A raise is a new entry with a reason; nothing here may lower what was charged or touch weights or δ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import enrolled, posting
from accounting import filter as admission
from accounting.budget import Filter, check_delta, epsilon_nano_of, terms_of
from accounting.curve import Price
from accounting.errors import conflict, invalid
from accounting.mechanism import MAX_CLIENTS, check_count
from accounting.posting import Balance, Entry, lock
from accounting.tables import POPULATION
from privacy_gateway.errors import Refused


def open_population(
    session: Session,
    *,
    population_id: str,
    name: str,
    privacy_unit: str,
    clients: int,
    epsilon: float,
    delta: float,
    owner_id: str,
    now: datetime,
    reason: str = "opened",
    weights: tuple[int, ...] | None = None,
    second_person: bool = False,
    filter: Filter = "rdp",  # noqa: A002 - the owner's own word for it
) -> Balance:
    """Open the budget of a group of people and freeze its terms.

    Args:
        session: open transaction.
        population_id: new id.
        name: for people.
        privacy_unit: what one client is ("person", "writer", "hospital").
        clients: N, a public constant.
        epsilon: ε in (0, 1e4].
        delta: δ within [1e-12, min(1e-3, 1/(10 N))].
        owner_id: who decides about it.
        now: time of the entry.
        reason: shown in the ledger.
        weights: shares of δ in units of 1e-15; the default weights when None.
        second_person: whether a raise of ε needs somebody else's approval.
        filter: `rdp` for any mechanism; `gdp`, exact, for unsampled Gaussians and nothing else.

    Raises:
        Refused: `invalid_request` naming `clients`, `epsilon`, `delta`, `weights` or `filter`.
    """
    check_count("clients", clients, MAX_CLIENTS)
    terms = terms_of(epsilon_nano_of(epsilon), check_delta(delta, clients), weights, filter=filter)
    first = Balance(
        population_id=population_id,
        terms=terms,
        charged=admission.zero(),
        reserved=admission.zero(),
        version=1,
        frozen=False,
        head_seq=1,
        head_hash="",
        clients=clients,
        name=name,
        privacy_unit=privacy_unit,
        owner_id=owner_id,
        second_person=second_person,
    )
    body = {
        "actor": owner_id,
        "reason": reason,
        "name": name,
        "privacy_unit": privacy_unit,
        "clients": clients,
        "terms": terms.canonical(),
        "second_person": second_person or None,
    }
    opened = posting.open_chain(session, first, now=now, body=body)
    return replace(first, head_hash=opened.hash)


def grant(
    session: Session,
    *,
    population_id: str,
    epsilon: float,
    reason: str,
    actor_id: str,
    now: datetime,
    approved_by: str | None = None,
    proposal: str | None = None,
) -> Entry:
    """Raise ε by `epsilon`; all limits shift, weights and δ stay, the past stays.

    Args:
        session: open transaction.
        population_id: whose budget.
        epsilon: how much more.
        reason: shown in the ledger.
        actor_id: who wants it.
        now: time of the entry.
        approved_by: the second person, where the population asks for one.
        proposal: what that person approved.

    Raises:
        Refused: `invalid_request` naming `epsilon` or `reason`; `not_found`; `forbidden` where a
            second person is needed and none, or the same one, approved.
    """
    _check_reason(reason)
    nano = epsilon_nano_of(epsilon)
    before = lock(session, [population_id])[population_id]
    if before.second_person:
        _check_second(actor_id, approved_by)
    after = replace(before, terms=before.terms.raised(nano))
    body = {
        "actor": actor_id,
        "reason": reason,
        "epsilon_nano": nano,
        "approved_by": approved_by,
        "proposal": proposal,
    }
    return posting.post(session, before, after, kind="grant", now=now, body=body)


def set_second_person(
    session: Session,
    *,
    population_id: str,
    needed: bool,
    reason: str,
    actor_id: str,
    now: datetime,
    approved_by: str | None = None,
    proposal: str | None = None,
) -> Entry:
    """Ask for a second person before a raise from now on, or no longer; the latter needs one too.

    Raises:
        Refused: `conflict` when it is so already; `forbidden` where a second person is needed;
            `invalid_request` naming `reason`; `not_found`.
    """
    _check_reason(reason)
    before = lock(session, [population_id])[population_id]
    if before.second_person == needed:
        raise conflict(f"a second person is {'already' if needed else 'not'} needed")
    if not needed:
        _check_second(actor_id, approved_by)
    session.execute(
        sa.update(POPULATION).where(POPULATION.c.id == population_id).values(second_person=needed)
    )
    body = {
        "actor": actor_id,
        "reason": reason,
        "second_person": needed,
        "approved_by": approved_by,
        "proposal": proposal,
    }
    return posting.post(session, before, before, kind="note", now=now, body=body)


def freeze(
    session: Session, *, population_id: str, reason: str, actor_id: str, now: datetime
) -> Entry:
    """Stop every reservation and charge; running jobs see it at their next charge.

    Raises:
        Refused: `conflict` when already frozen; `invalid_request` naming `reason`; `not_found`.
    """
    return _set_frozen(session, population_id, True, reason, actor_id, now)


def unfreeze(
    session: Session, *, population_id: str, reason: str, actor_id: str, now: datetime
) -> Entry:
    """Allow spending again.

    Raises:
        Refused: `conflict` when not frozen, or while a restore's lost people are not enrolled
            again; `invalid_request` naming `reason`; `not_found`.
    """
    if lost := enrolled.lost(session, population_id):
        raise conflict(
            f"people of {', '.join(lost)} were lost when a backup was restored, so nobody can be "
            "told apart; register their data again first",
            blocks=lost,
        )
    return _set_frozen(session, population_id, False, reason, actor_id, now)


def deny(
    session: Session,
    *,
    population_id: str,
    job_id: str | None,
    researcher_id: str,
    code: str,
    facts: Mapping[str, Any],
    now: datetime,
    price: Price | None = None,
    rounds: int = 0,
) -> Entry:
    """Record a refused job; balances stay as they are.

    Args:
        session: open transaction.
        population_id: whose budget was asked for.
        job_id: the refused job, when it has an id.
        researcher_id: who asked.
        code: the refusal's public code.
        facts: decision, rules and the like.
        now: time of the entry.
        price: of the refused mechanism, when it could be priced.
        rounds: charge units asked for.
    """
    before = lock(session, [population_id])[population_id]
    body = denial(job_id, researcher_id, code, facts, price, rounds)
    return posting.post(session, before, before, kind="deny", now=now, body=body)


def denial(
    job_id: str | None,
    researcher_id: str,
    code: str,
    facts: Mapping[str, Any],
    price: Price | None,
    rounds: int,
) -> dict[str, Any]:
    """Members of a refusal's entry; see `deny`."""
    body: dict[str, Any] = {
        "job": job_id,
        "researcher": researcher_id,
        "actor": researcher_id,
        "reason": code,
        "facts": dict(facts),
    }
    if price is not None:
        body |= {
            "mechanism": price.mechanism.canonical(),
            "mechanism_digest": price.mechanism_digest,
            "rounds": rounds,
        }
    return body


def note(
    session: Session,
    *,
    population_id: str,
    reason: str,
    actor_id: str,
    facts: Mapping[str, Any],
    now: datetime,
) -> Entry:
    """Record something people should find later; balances stay as they are."""
    _check_reason(reason)
    before = lock(session, [population_id])[population_id]
    body = {"actor": actor_id, "reason": reason, "facts": dict(facts)}
    return posting.post(session, before, before, kind="note", now=now, body=body)


def _set_frozen(
    session: Session, population_id: str, value: bool, reason: str, actor_id: str, now: datetime
) -> Entry:
    _check_reason(reason)
    before = lock(session, [population_id])[population_id]
    if before.frozen == value:
        state = "frozen" if value else "not frozen"
        raise conflict(f"population {population_id} is already {state}")
    body = {"actor": actor_id, "reason": reason}
    kind = "freeze" if value else "unfreeze"
    after = replace(before, frozen=value)
    return posting.post(session, before, after, kind=kind, now=now, body=body)


def _check_second(actor_id: str, approved_by: str | None) -> None:
    if approved_by is None or approved_by == actor_id:
        raise Refused("forbidden", "this budget asks for the approval of a second person")


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise invalid("reason", "must say why")
