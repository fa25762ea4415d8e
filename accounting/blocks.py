"""Blocks: people of one population who share nothing, so that their losses need not be added.

A person lies in one block at most: her keyed hash is a primary key, written under the population's
lock. What is charged to a block counts for its people, what is charged to the population counts
for everybody, and each block's sum has to stay within the population's limits by itself. The proof
is in `docs/concepts/blocks.md`. Whatever is not proven to be apart is charged to everybody, and
nothing here may ever take a person out of a block or move what was charged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import enrolled, posting
from accounting import filter as admission
from accounting.errors import conflict, invalid
from accounting.filter import Vector
from accounting.mechanism import MAX_CLIENTS, check_count
from accounting.posting import Balance, Entry
from accounting.quotas import QuotaBalance
from accounting.tables import POPULATION
from accounting.tables_scope import BLOCK, MEMBER
from privacy_gateway.errors import FieldError, Refused

_BATCH: Final = 5000
digest = enrolled.digest
sealed_digests = enrolled.sealed

# Built once: composing a statement costs more than running it.
_ALL = (
    sa.select(BLOCK)
    .where(BLOCK.c.population_id == sa.bindparam("population"))
    .order_by(BLOCK.c.name)
)
_ONE = _ALL.where(BLOCK.c.name == sa.bindparam("block"))
MOVE = sa.update(BLOCK).where(
    BLOCK.c.population_id == sa.bindparam("of_population"), BLOCK.c.name == sa.bindparam("of_block")
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block. Vectors in pico-nats, of this block alone.

    Attributes:
        clients: N of every data set of the block, a public constant.
        members: people that were ever enrolled; they stay.
        key_id: names the secret of the members' hashes; None before the first enrolment.
        opened_seq: the entry that opened it.
    """

    population_id: str
    name: str
    clients: int
    members: int
    key_id: str | None
    charged: Vector
    reserved: Vector
    opened_seq: int

    def facts(self) -> dict[str, Any]:
        """What an entry about the block says of its balance."""
        balance = {"charged": list(self.charged), "reserved": list(self.reserved)}
        return {"block": {"name": self.name, **balance}}


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a cost is to count for: one block's people, or everybody.

    `name` is None for everybody; `blocks` are then all of the population's, else that one.
    """

    name: str | None
    blocks: tuple[Block, ...]

    def seen(self, balance: Balance) -> Balance:
        """The budget as its most burdened person among these has spent it.

        For everybody it is an upper bound at every order, so what it admits, each block admits.
        """
        if self.name is not None:
            return person(balance, self.blocks[0])
        if not self.blocks:
            return balance
        charged = _highest(block.charged for block in self.blocks)
        total = _highest(admission.add(block.charged, block.reserved) for block in self.blocks)
        return replace(
            balance,
            charged=admission.add(balance.charged, charged),
            reserved=admission.add(balance.reserved, admission.subtract(total, charged)),
        )

    def moved(
        self,
        balance: Balance,
        *,
        hold: Vector | None = None,
        spend: Vector | None = None,
        release: Vector | None = None,
    ) -> tuple[Balance, Block | None]:
        """Population and block after a reservation, a charge out of one, or its return."""
        if self.name is None:
            return shifted(balance, hold=hold, spend=spend, release=release), None
        return balance, shifted(self.blocks[0], hold=hold, spend=spend, release=release)


EVERYBODY: Final = Target(None, ())
Account = TypeVar("Account", Balance, Block, QuotaBalance)


def target(session: Session, balance: Balance, name: str | None) -> Target:
    """Whom a cost would count for, as stored now; hold the population's lock to rely on it.

    Raises:
        Refused: `not_found` for a block that was never opened.
    """
    if name is not None:
        return Target(name, (block(session, balance.population_id, name),))
    return (
        Target(None, tuple(blocks(session, balance.population_id))) if balance.blocks else EVERYBODY
    )


def person(balance: Balance, block: Block) -> Balance:
    """The budget of one block's people: what counts for all of them, and N of their data."""
    return replace(
        balance,
        charged=admission.add(balance.charged, block.charged),
        reserved=admission.add(balance.reserved, block.reserved),
        clients=block.clients,
    )


def shifted(
    account: Account,
    *,
    hold: Vector | None = None,
    spend: Vector | None = None,
    release: Vector | None = None,
) -> Account:
    """An account after a reservation, a charge out of one, or its return."""
    charged, reserved = account.charged, account.reserved
    if hold is not None:
        reserved = admission.add(reserved, hold)
    if spend is not None:
        charged, reserved = admission.add(charged, spend), admission.subtract(reserved, spend)
    if release is not None:
        reserved = admission.subtract(reserved, release)
    return replace(account, charged=charged, reserved=reserved)


def blocks(session: Session, population_id: str) -> list[Block]:
    """A population's blocks in the order of their names."""
    return [_block(row) for row in session.execute(_ALL, {"population": population_id})]


def block(session: Session, population_id: str, name: str) -> Block:
    """One block.

    Raises:
        Refused: `not_found`.
    """
    row = session.execute(_ONE, {"population": population_id, "block": name}).one_or_none()
    if row is None:
        fault = FieldError("manifest.block", "names no block of the population", name)
        raise Refused("not_found", f"the population has no block {name}", errors=[fault])
    return _block(row)


def store(session: Session, block: Block | None) -> None:
    """Write a block's vectors; the population's lock is held by the caller."""
    if block is None:
        return
    values = {"charged": block.charged, "reserved": block.reserved}
    key = {"of_population": block.population_id, "of_block": block.name}
    session.execute(MOVE, key | values)


def open_block(
    session: Session,
    *,
    population_id: str,
    name: str,
    clients: int,
    reason: str,
    actor_id: str,
    now: datetime,
) -> Entry:
    """Open a block of `clients` people; nobody is in it yet, and nothing was charged to it.

    What was charged to the population before counts for the block's people too.

    Raises:
        Refused: `invalid_request` naming `name`, `clients` or `reason`; `conflict` when the name
            is taken; `not_found` for the population.
    """
    check_count("clients", clients, MAX_CLIENTS)
    if not name.strip() or not reason.strip():
        raise invalid("name" if not name.strip() else "reason", "must not be empty")
    before = posting.lock(session, [population_id])[population_id]
    present = blocks(session, population_id)
    if name in {block.name for block in present}:
        raise conflict(f"the population has a block {name} already", block=name)
    taken = sum(block.clients for block in present)
    free = before.clients - taken
    if clients > free:
        raise invalid(
            "clients",
            f"must be at most {free}: of the population's {before.clients} people, {taken} are in "
            "other blocks",
            value=clients,
            limit=free,
        )
    session.execute(
        sa.insert(BLOCK).values(
            population_id=population_id,
            name=name,
            clients=clients,
            members=0,
            key_id=None,
            charged=admission.zero(),
            reserved=admission.zero(),
            opened_seq=before.head_seq + 1,
        )
    )
    session.execute(
        sa.update(POPULATION)
        .where(POPULATION.c.id == population_id)
        .values(blocks=len(present) + 1)
    )
    body = {"actor": actor_id, "reason": reason, "opened": {"block": name, "clients": clients}}
    return posting.post(session, before, before, kind="note", now=now, body=body)


def enrol(
    session: Session,
    *,
    population_id: str,
    name: str,
    dataset_id: str,
    hashes: Sequence[bytes],
    key_id: str,
    actor_id: str,
    now: datetime,
) -> Entry:
    """Put a data set's people into a block, if none of them is in another one.

    Args:
        session: open transaction; the data set is registered in it.
        population_id: whose people.
        name: of the block.
        dataset_id: the version that may be charged to the block from now on.
        hashes: one keyed hash (32 bytes) of each of its people.
        key_id: names the key; hashes of different keys could not be compared.
        actor_id: who registers it.
        now: time of the entry.

    Raises:
        Refused: `not_found`; `conflict` when people are in another block (`people` says how many)
            or the key is another one than before; `invalid_request` naming `manifest.client` when
            two ids become one, `manifest.block` when the numbers do not fit.
    """
    before = posting.lock(session, [population_id])[population_id]
    there = block(session, population_id, name)
    people = sorted(set(hashes))
    _check_people(session, before, there, len(hashes), people, key_id)
    known = _known(session, population_id, people)
    _refuse_overlap(name, known)
    joining = [hash_ for hash_ in people if hash_ not in known]
    members = _members(session, there, len(joining))
    rest = sum(other.members for other in blocks(session, population_id) if other.name != name)
    if members + rest > before.clients:
        raise invalid(
            "manifest.block",
            f"brings {members + rest} people into blocks; the population has {before.clients}",
            value=members + rest,
            limit=before.clients,
        )
    if joining:
        rows = [{"population_id": population_id, "hash": h, "block": name} for h in joining]
        session.execute(sa.insert(MEMBER), rows)
    key = {"of_population": population_id, "of_block": name}
    session.execute(MOVE, key | {"members": members, "key_id": key_id})
    fact = {
        "block": name,
        "clients": there.clients,
        "dataset": dataset_id,
        "joined": members - there.members,
        "members": members,
        "members_digest": digest(session, population_id, name),
        "key_id": key_id,
    }
    body = {"actor": actor_id, "reason": "people enrolled", "enrolled": fact}
    return posting.post(session, before, before, kind="note", now=now, body=body)


def _check_people(
    session: Session,
    balance: Balance,
    there: Block,
    stated: int,
    people: list[bytes],
    key_id: str,
) -> None:
    """What has to hold of a file's people before they are compared with anybody."""
    if len(people) != stated:
        raise invalid(
            "manifest.client",
            f"{stated - len(people)} ids equal others once letter case, spaces and leading zeros "
            "are left out, so nobody can tell whether they are the same people",
        )
    if len(people) != there.clients:
        raise invalid(
            "manifest.block",
            f"has {there.clients} clients, the file {len(people)}",
            value=len(people),
            limit=there.clients,
        )
    keys = {block.key_id for block in blocks(session, balance.population_id)} - {None}
    if keys - {key_id}:
        raise conflict(
            "the people of this population were hashed with another key, so it cannot be told who "
            "is in which block; restore the key file of the installation that enrolled them",
            key=key_id,
        )


def _members(session: Session, there: Block, joining: int) -> int:
    """People ever enrolled, after these; those that a restore has lost are counted already.

    Raises:
        Refused: `conflict` when people are lost and these are more than they.
    """
    of = (MEMBER.c.population_id == there.population_id, MEMBER.c.block == there.name)
    present = session.execute(
        sa.select(sa.func.count()).select_from(MEMBER).where(*of)
    ).scalar_one()
    if enrolled.sealed(session, there.population_id).get(there.name) in (
        None,
        digest(session, there.population_id, there.name),
    ):
        return there.members + joining
    if present + joining > there.members:
        detail = "people of this block were lost when a backup was restored: register theirs first"
        raise conflict(detail, block=there.name)
    return there.members


def _known(session: Session, population_id: str, people: list[bytes]) -> dict[bytes, str]:
    """Which of these are in a block already, and in which."""
    found: dict[bytes, str] = {}
    query = sa.select(MEMBER.c.hash, MEMBER.c.block).where(
        MEMBER.c.population_id == population_id,
        MEMBER.c.hash.in_(sa.bindparam("people", expanding=True)),
    )
    for start in range(0, len(people), _BATCH):
        rows = session.execute(query, {"people": people[start : start + _BATCH]})
        found.update((bytes(row.hash), row.block) for row in rows)
    return found


def _refuse_overlap(name: str, known: dict[bytes, str]) -> None:
    elsewhere = [block for block in known.values() if block != name]
    if elsewhere:
        named = ", ".join(sorted(set(elsewhere)))
        message = f"{len(elsewhere)} of its people are in {named} already"
        raise Refused(
            "conflict",
            f"the people are not apart: {message}; register the file without a block, then it "
            "counts for everybody",
            errors=[FieldError("manifest.block", message, name)],
            people=len(elsewhere),
        )


def _highest(vectors: Iterable[Vector]) -> Vector:
    return tuple(map(max, zip(admission.zero(), *vectors, strict=True)))


def _block(row: Any) -> Block:
    return Block(
        population_id=row.population_id,
        name=row.name,
        clients=row.clients,
        members=row.members,
        key_id=row.key_id,
        charged=row.charged,
        reserved=row.reserved,
        opened_seq=row.opened_seq,
    )
