"""Writes back what a restored database has forgotten, so that no budget is spent twice.

The missing entries come from an export that was verified and that the witness vouches for. Each
is replayed by the ledger's own arithmetic and has to come out with the seal it had: a balance,
share or block that does not follow from the entries before stops everything. Entries are put into
the log in the order in which the witness saw them. What was reserved and may have been spent after
the newest known entry is charged. Nothing here may lower a balance, or write an entry whose seal
nobody knew, except the charges and notes that say what was done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import blocks, ledger, log, posting, quotas, reservations, sequencer
from accounting.budget import Terms
from accounting.errors import conflict
from accounting.posting import Balance, Entry
from accounting.tables import ENTRY, POPULATION, RESERVATION
from accounting.tables_scope import BLOCK
from kit import prepared
from kit.clock import from_micros
from privacy_gateway import canonical, chain

_COMMON: Final = frozenset({"population", "seq", "kind", "at", "balance"})


@dataclass(slots=True)
class Missing:
    """What an export has and a database has not.

    Attributes:
        tails: by population, the lines behind the database's head, in order.
        places: population and seq of every place of the log that the database lacks.
    """

    tails: dict[str, list[chain.Line]] = field(default_factory=dict)
    places: list[tuple[str, int]] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """How many entries are to be written back."""
        return sum(map(len, self.tails.values()))


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was written: entries replayed, jobs whose reservations were charged in full."""

    entries: int
    forfeited: tuple[str, ...]


def heads(session: Session) -> list[tuple[str, int, str]]:
    """Every population's last entry: (population, seq, hash)."""
    query = sa.select(POPULATION.c.id, POPULATION.c.head_seq, POPULATION.c.head_hash)
    return [(row.id, row.head_seq, row.head_hash) for row in session.execute(query)]


def missing(session: Session, lines: Iterable[bytes]) -> Missing:
    """Compare an export, already verified, with the database; holds only what is missing."""
    known = {population: seq for population, seq, _ in heads(session)}
    found, size = Missing(), log.size(session)
    chains: list[str] = []
    taken: dict[str, int] = {}
    place = 0
    for line in lines:
        cut = chain.read_line(line.rstrip(b"\n"))
        if cut is not None:
            leaf = json.loads(cut.leaf)
            if leaf["seq"] > known.get(leaf["population"], 0):
                found.tails.setdefault(leaf["population"], []).append(cut)
            continue
        other = json.loads(line)
        if "head" in other:
            chains.append(other["head"]["population"])
        runs = other["order"]["runs"] if "order" in other else []
        for name, count in zip(runs[::2], runs[1::2], strict=True):
            population = chains[name]
            for _ in range(count):
                taken[population] = taken.get(population, 0) + 1
                if place >= size:
                    found.places.append((population, taken[population]))
                place += 1
    return found


def recover(session: Session, lost: Missing, *, now: datetime, actor_id: str) -> Recovered:
    """Write back what is missing, charge what is uncertain, and note it in every chain concerned.

    Args:
        session: open transaction of the caller, who commits.
        lost: from `missing`, in this transaction.
        now: time of the charges and notes.
        actor_id: who restores.

    Raises:
        Refused: `conflict` naming the entry that cannot be replayed, or that nobody vouches for.
    """
    lost = _believed(lost)
    replayed = _replay(session, lost)
    # Whoever held a reservation may have drawn on it after the newest entry that is known.
    forfeited = _forfeit(session, now)
    for population, tail in lost.tails.items():
        facts = {"first": json.loads(tail[0].leaf)["seq"], "entries": len(tail)}
        reason = "restored from a backup; entries written back from an export"
        ledger.note(
            session,
            population_id=population,
            reason=reason,
            actor_id=actor_id,
            facts=facts,
            now=now,
        )
        if any(b'"enrolled":' in line.leaf for line in tail):
            _freeze(session, population, actor_id, now)
    return Recovered(replayed, tuple(forfeited))


def _believed(lost: Missing) -> Missing:
    """Behind the last checkpoint anybody could have written an entry: none that gives is believed.

    Its chain ends before it. What was spent behind it is not forgotten either: that is refused.
    """
    covered: dict[str, int] = {}
    for population, seq in lost.places:
        covered[population] = max(seq, covered.get(population, 0))
    tails = {}
    for population, tail in lost.tails.items():
        leaves = [json.loads(line.leaf) for line in tail]
        giving = [
            place
            for place, leaf in enumerate(leaves)
            if leaf["seq"] > covered.get(population, 0) and _gives(leaf)
        ]
        end = giving[0] if giving else len(tail)
        if any(leaf["kind"] in ("reserve", "charge") for leaf in leaves[end:]):
            seq = leaves[end]["seq"]
            raise conflict(
                f"entry {seq} of {population} gives budget and is under no checkpoint, and more was"
                " spent behind it; take an export that was made some seconds later",
                population=population,
                seq=seq,
            )
        if end:
            tails[population] = tail[:end]
    return Missing(tails, lost.places)


def _gives(leaf: Mapping[str, Any]) -> bool:
    """Whether more may be spent after this entry than before."""
    if leaf["kind"] == "note":
        return leaf.get("second_person") is False or bool({"opened", "enrolled"} & leaf.keys())
    return leaf["kind"] in ("grant", "unfreeze", "void")


def _replay(session: Session, lost: Missing) -> int:
    """Every missing entry, first in the order of the log, then what no checkpoint covers."""
    waiting = {name: iter(tail) for name, tail in lost.tails.items()}
    placed, count = [], 0
    known = {population: seq for population, seq, _ in heads(session)}
    for population, seq in lost.places:
        if seq > known.get(population, 0):
            sealed = _write(session, next(waiting[population])).hash
            count += 1
        else:
            of = sa.select(ENTRY.c.hash).where(ENTRY.c.population_id == population)
            sealed = session.execute(of.where(ENTRY.c.seq == seq)).scalar_one()
        placed.append((population, seq, sealed))
    sequencer.append(session, placed)
    for rest in waiting.values():
        for line in rest:
            _write(session, line)
            count += 1
    return count


def _write(session: Session, line: chain.Line) -> Entry:
    """Replay one entry; its seal has to be the one it had."""
    leaf = json.loads(line.leaf)
    body = {name: value for name, value in leaf.items() if name not in _COMMON}
    now = from_micros(leaf["at"])
    if leaf["kind"] == "open":
        written = posting.open_chain(session, _first(leaf), now=now, body=body)
    else:
        before = posting.lock(session, [leaf["population"]])[leaf["population"]]
        rule = _RULES.get(leaf["kind"])
        if rule is None:
            raise conflict(f"entries of kind {leaf['kind']} cannot be replayed by this version")
        after = rule(session, before, leaf)
        written = posting.post(session, before, after, kind=leaf["kind"], now=now, body=body)
    if (written.hash, written.prev_hash) != (line.hash, line.prev):
        raise conflict(
            f"entry {leaf['seq']} of {leaf['population']} does not follow from the entries before",
            population=leaf["population"],
            seq=leaf["seq"],
        )
    return written


def _first(leaf: Mapping[str, Any]) -> Balance:
    terms, left = leaf["terms"], leaf["balance"]
    nothing = Terms(0, terms["delta"], tuple(terms["weights"]), ())
    return Balance(
        population_id=leaf["population"],
        terms=nothing.raised(terms["epsilon_nano"]),
        charged=tuple(left["charged"]),
        reserved=tuple(left["reserved"]),
        version=1,
        frozen=False,
        head_seq=1,
        head_hash="",
        clients=leaf["clients"],
        name=leaf["name"],
        privacy_unit=leaf["privacy_unit"],
        owner_id=leaf["actor"],
        second_person=bool(leaf.get("second_person", False)),
    )


def _grant(_session: Session, before: Balance, leaf: Mapping[str, Any]) -> Balance:
    return replace(before, terms=before.terms.raised(leaf["epsilon_nano"]))


def _reserve(session: Session, before: Balance, leaf: Mapping[str, Any]) -> Balance:
    block = leaf["block"]["name"] if "block" in leaf else None
    purse = reservations.purse(session, before, leaf["researcher"], leaf.get("project"), block)
    reserved = {
        "job_id": leaf["job"],
        "population_id": before.population_id,
        "researcher_id": leaf["researcher"],
        "project": purse.project,
        "block": purse.target.name,
        "mechanism": canonical.dumps(leaf["mechanism"]).decode(),
        "mechanism_digest": leaf["mechanism_digest"],
        "per_round": tuple(leaf["per_round"]),
        "whole": leaf["mechanism"]["kind"] in ("tree_gaussian", "banded_gaussian"),
        "rounds_reserved": leaf["rounds"],
        "rounds_charged": 0,
        "fence": 0,
        "closed": False,
        "created_at": leaf["at"],
        "lease_expires_at": leaf["at"],
    }
    prepared.ask(session, prepared.nothing([(reservations.INSERT, [reserved])]))
    return _moved(session, purse, hold=tuple(leaf["cost"]))


def _charge(session: Session, _before: Balance, leaf: Mapping[str, Any]) -> Balance:
    purse, present = reservations.lock_purse(session, leaf["job"])
    charged = present.rounds_charged + leaf["rounds"]
    reservations.draw(
        session, leaf["job"], rounds_charged=charged, fence=leaf["fence"], closed=False
    )
    return _moved(session, purse, spend=tuple(leaf["cost"]))


def _void(session: Session, _before: Balance, leaf: Mapping[str, Any]) -> Balance:
    purse, present = reservations.lock_purse(session, leaf["job"])
    reservations.draw(
        session,
        leaf["job"],
        rounds_charged=present.rounds_charged,
        fence=present.fence,
        closed=True,
    )
    return _moved(session, purse, release=tuple(leaf["cost"]))


def _moved(session: Session, purse: reservations.Purse, **move: tuple[int, ...]) -> Balance:
    drawn = purse.moved(**move)
    quotas.store(session, drawn.shares)
    blocks.store(session, drawn.block)
    return drawn.balance


def _freezing(_session: Session, before: Balance, leaf: Mapping[str, Any]) -> Balance:
    return replace(before, frozen=leaf["kind"] == "freeze")


def _quota(session: Session, before: Balance, leaf: Mapping[str, Any]) -> Balance:
    kind: quotas.Kind = "researcher" if "researcher" in leaf else "project"
    told, delta = leaf["quota"], before.terms.delta
    nothing = Terms(0, delta, tuple(told["weights"]), ())
    share = quotas.quota(session, before.population_id, leaf[kind], kind=kind, delta=delta)
    quotas.store(session, [replace(share, terms=nothing.raised(told["epsilon_nano"]))])
    return before


def _note(session: Session, before: Balance, leaf: Mapping[str, Any]) -> Balance:
    """Some notes change more than the chain; who was enrolled in a block no entry tells."""
    of = POPULATION.c.id == before.population_id
    if "second_person" in leaf:
        value = {"second_person": bool(leaf["second_person"])}
        session.execute(sa.update(POPULATION).where(of).values(value))
    if "opened" in leaf:
        session.execute(
            sa.insert(BLOCK).values(
                population_id=before.population_id,
                name=leaf["opened"]["block"],
                clients=leaf["opened"]["clients"],
                members=0,
                key_id=None,
                charged=(0,) * len(before.charged),
                reserved=(0,) * len(before.reserved),
                opened_seq=leaf["seq"],
            )
        )
        session.execute(sa.update(POPULATION).where(of).values(blocks=POPULATION.c.blocks + 1))
    if "enrolled" in leaf:
        fact = leaf["enrolled"]
        # Their number is kept and they are not, so that only they can be enrolled again.
        block = (BLOCK.c.population_id == before.population_id, BLOCK.c.name == fact["block"])
        kept = {"members": fact["members"], "key_id": fact["key_id"]}
        session.execute(sa.update(BLOCK).where(*block).values(**kept))
    return before


def _same(_session: Session, before: Balance, _leaf: Mapping[str, Any]) -> Balance:
    return before


_RULES: Final[dict[str, Callable[[Session, Balance, Mapping[str, Any]], Balance]]] = {
    "grant": _grant,
    "reserve": _reserve,
    "charge": _charge,
    "void": _void,
    "freeze": _freezing,
    "unfreeze": _freezing,
    "quota": _quota,
    "note": _note,
    "deny": _same,
}


def _forfeit(session: Session, now: datetime) -> list[str]:
    """Charge the rest of every open reservation whose population could have been drawn on."""
    query = (
        sa.select(RESERVATION.c.job_id, RESERVATION.c.fence)
        .join(POPULATION, POPULATION.c.id == RESERVATION.c.population_id)
        .where(sa.not_(RESERVATION.c.closed), sa.not_(POPULATION.c.frozen))
        .order_by(RESERVATION.c.population_id, RESERVATION.c.job_id)
    )
    forfeited = []
    for job, fence in session.execute(query).all():
        present = reservations.held(session, job)
        left = 0 if present is None else present.rounds_left
        if left:
            ledger.charge(
                session,
                job_id=job,
                round_first=1,
                rounds=left,
                attempt=fence + 1,
                fence=fence + 1,
                facts={"reason": "restored"},
                now=now,
            )
            forfeited.append(job)
        facts = {"status": "cancelled"}
        ledger.settle(session, job_id=job, reason="restored from a backup", facts=facts, now=now)
    return forfeited


def _freeze(session: Session, population: str, actor_id: str, now: datetime) -> None:
    """People were put into blocks, and which ones is lost: nobody can be told apart any more."""
    if posting.balance(session, population).frozen:
        return
    ledger.freeze(
        session,
        population_id=population,
        reason="restored from a backup that lacks people who were enrolled in blocks since;"
        " register their data again before this population is unfrozen",
        actor_id=actor_id,
        now=now,
    )
