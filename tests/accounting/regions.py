"""A population of a thousand, nine hundred of them in three blocks; steps of a test on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sqlalchemy.orm import Session

from accounting import blocks, ledger
from accounting.curve import Price, price
from accounting.mechanism import Mechanism
from kit.db import Database
from tests.accounting.support import FACTS, NOW, SOON, open_population

PEOPLE = 1000
KEY = "0" * 16
SIZES = {"north": 400, "south": 300, "west": 200}


def hash_of(person: int) -> bytes:
    """Stands for the keyed hash; `tests/jobs` makes real ones."""
    return hashlib.sha256(str(person).encode()).digest()


def cost(clients: int, noise: float = 3.0) -> Price:
    """A round on a tenth of these people."""
    return price(Mechanism("poisson_gaussian", noise, clients, clients // 10))


def opened(session: Session, name: str, clients: int | None = None) -> ledger.Entry:
    return blocks.open_block(
        session,
        population_id="pop_a",
        name=name,
        clients=SIZES[name] if clients is None else clients,
        reason="a region",
        actor_id="usr_owner",
        now=NOW,
    )


def enrol(
    session: Session, name: str, people: Iterable[int], dataset: str = "", key: str = KEY
) -> ledger.Entry:
    return blocks.enrol(
        session,
        population_id="pop_a",
        name=name,
        dataset_id=dataset or f"ds_{name}",
        hashes=[hash_of(person) for person in people],
        key_id=key,
        actor_id="usr_owner",
        now=NOW,
    )


def reserve(
    session: Session,
    job: str,
    block: str | None,
    rounds: int,
    *,
    noise: float = 3.0,
    project: str | None = None,
) -> ledger.Entry:
    return ledger.reserve(
        session,
        ledger.lock(session, ["pop_a"])["pop_a"],
        job_id=job,
        researcher_id="usr_r",
        price=cost(PEOPLE if block is None else SIZES[block], noise),
        rounds=rounds,
        facts=FACTS | {"dataset": f"ds_{block}"},
        now=NOW,
        lease_expires_at=SOON,
        project=project,
        block=block,
    )


def charge(session: Session, job: str, rounds: int, attempt: int = 1) -> ledger.Charge:
    return ledger.charge(
        session,
        job_id=job,
        round_first=1,
        rounds=rounds,
        attempt=attempt,
        fence=1,
        facts=FACTS,
        now=NOW,
    )


def regions(database: Database) -> None:
    """Three blocks, their people enrolled; a hundred people in none."""
    first = 0
    with database.unit_of_work() as session:
        open_population(session, clients=PEOPLE, epsilon=4.0)
        for name, size in SIZES.items():
            opened(session, name)
            enrol(session, name, range(first, first + size))
            first += size
