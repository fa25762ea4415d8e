"""Blocks: nobody's total leaves the budget, whoever is grouped how, and whatever runs on whom."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from accounting import blocks, ledger
from accounting.curve import Price, price
from accounting.mechanism import Mechanism
from accounting.tables_scope import MEMBER
from kit.db import Database
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import FACTS, NOW, SOON, export, open_population, refusal_of

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


def most(database: Database, block: str | None) -> int:
    """How many rounds fit now, found by trying."""
    low, high = 0, 1 << 20
    while low < high:
        middle = (low + high + 1) // 2
        try:
            with database.unit_of_work() as session:
                reserve(session, "try", block, middle)
                raise _Undo
        except _Undo:
            low = middle
        except Refused:
            high = middle - 1
    return low


class _Undo(Exception):
    """Nothing of a trial is kept."""


def test_blocks_spend_in_parallel_and_everybodys_jobs_count_for_each(database: Database) -> None:
    regions(database)
    alone = {name: most(database, name) for name in SIZES}
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", alone["north"])

    assert most(database, "north") == 0
    assert {name: most(database, name) for name in ("south", "west")} == {
        name: alone[name] for name in ("south", "west")
    }
    assert most(database, None) == 0, "the north's people have nothing left for a common job"

    with database.unit_of_work() as session:
        ledger.settle(session, job_id="job_n", reason="done", facts=FACTS, now=NOW)
    common = most(database, None)
    with database.unit_of_work() as session:
        reserve(session, "job_all", None, common)
    assert [most(database, name) for name in SIZES] == [0, 0, 0]
    assert verify(export(database)).ok


def test_the_odometer_tells_each_block_and_the_one_that_spent_most(database: Database) -> None:
    regions(database)
    with database.unit_of_work() as session:
        reserve(session, "job_all", None, 5)
        reserve(session, "job_n", "north", 20)
        charge(session, "job_n", 15)

    with database.read() as session:
        seen = ledger.odometer(session, "pop_a")
        then = ledger.odometer(session, "pop_a", at=NOW)
    north, south, west = seen.blocks
    assert (north.name, south.name, west.name) == ("north", "south", "west")
    assert north.epsilon_spent > south.epsilon_spent == west.epsilon_spent == 0
    assert north.epsilon_reserved > 0 < south.epsilon_reserved
    assert (seen.epsilon_spent, seen.charged) == (north.epsilon_spent, north.charged)
    assert seen.epsilon_remaining == min(block.epsilon_remaining for block in seen.blocks)
    assert then == seen, "the past is derived from entries alone, and says the same"


def test_people_of_two_blocks_are_refused_and_nothing_is_kept(database: Database) -> None:
    regions(database)
    with database.unit_of_work() as session:
        opened(session, "east", 50)
    before = _members(database)

    def mixed() -> None:
        with database.unit_of_work() as session:
            enrol(session, "east", [*range(395, 405), *range(920, 960)])

    refused = refusal_of(mixed)
    assert refused is not None
    assert (refused.code, refused.facts["people"]) == ("conflict", 10)
    assert refused.errors[0].field == "manifest.block"
    assert _members(database) == before


def test_the_database_itself_keeps_a_person_in_one_block(database: Database) -> None:
    regions(database)
    row = {"population_id": "pop_a", "hash": hash_of(0), "block": "south"}
    with pytest.raises(IntegrityError), database.unit_of_work() as session:
        session.execute(MEMBER.insert().values(row))
    for statement in (MEMBER.delete(), MEMBER.update().values(block="south")):
        with pytest.raises(IntegrityError), database.unit_of_work() as session:
            session.execute(statement)


@pytest.mark.parametrize(
    ("people", "key", "code", "field"),
    [
        (range(899), KEY, "invalid_request", "manifest.block"),
        ([*range(900, 949), 949, 949], KEY, "invalid_request", "manifest.client"),
        (range(900, 950), "f" * 16, "conflict", None),
    ],
)
def test_what_cannot_be_compared_is_refused(
    database: Database, people: Any, key: str, code: str, field: str | None
) -> None:
    regions(database)

    def act() -> None:
        with database.unit_of_work() as session:
            opened(session, "east", 50)
            enrol(session, "east", people, key=key)

    refused = refusal_of(act)
    assert refused is not None
    assert refused.code == code
    assert [fault.field for fault in refused.errors] == ([field] if field else [])


def test_more_people_than_the_population_has_are_no_blocks(database: Database) -> None:
    regions(database)

    def too_large() -> None:
        with database.unit_of_work() as session:
            opened(session, "east", 101)

    refused = refusal_of(too_large)
    assert refused is not None
    assert (refused.errors[0].field, refused.errors[0].limit) == ("clients", 100)
    with database.unit_of_work() as session:
        opened(session, "east", 100)
        enrol(session, "east", range(900, 1000))
        # Other people of the north, the same number: the union would be larger than everybody.
        refused = refusal_of(lambda: enrol(session, "north", range(5000, 5400), "ds_later"))
    assert refused is not None
    assert refused.errors[0].field == "manifest.block"


def test_a_second_data_set_about_the_same_people_shares_their_block(database: Database) -> None:
    regions(database)
    with database.unit_of_work() as session:
        entry = enrol(session, "north", range(400), "ds_other")
        digest = blocks.digest(session, "pop_a", "north")

    assert entry.leaf["enrolled"]["joined"] == 0
    assert entry.leaf["enrolled"]["members"] == 400
    hashes = sorted(hash_of(person) for person in range(400))
    assert entry.leaf["enrolled"]["members_digest"] == digest
    assert digest == hashlib.sha256(b"".join(hashes)).hexdigest()
    assert verify(export(database)).ok


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda leaf: leaf["block"].update(charged=[0] * 16), "balance"),
        (lambda leaf: leaf["block"].update(name="south"), "rule"),
        (lambda leaf: leaf.pop("block"), "rule"),
        (lambda leaf: leaf.update(project="other"), "rule"),
    ],
)
def test_a_charge_that_lies_about_its_people_is_found(
    database: Database, change: Any, kind: str
) -> None:
    regions(database)
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", 20)
        charge(session, "job_n", 15)
    lines = export(database)

    report = verify(_forged(lines, "charge", change))

    assert kind in {problem.kind for problem in report.problems}


def test_an_admission_beyond_one_blocks_budget_is_found_offline(database: Database) -> None:
    regions(database)
    room = most(database, "north")
    with database.unit_of_work() as session:
        reserve(session, "job_n", "north", room)

    def more(leaf: dict[str, Any]) -> None:
        leaf["rounds"] += 1
        leaf["cost"] = [part * leaf["rounds"] for part in leaf["per_round"]]
        leaf["block"]["reserved"] = leaf["cost"]

    report = verify(_forged(export(database), "reserve", more))

    assert "filter" in {problem.kind for problem in report.problems}


def _forged(lines: list[bytes], kind: str, change: Any) -> list[bytes]:
    """The export with one entry rewritten; seals are broken too, the rules must notice as well."""
    from privacy_gateway import canonical, chain

    made = []
    for line in lines:
        read = chain.read_line(line)
        if read is not None and json.loads(read.leaf)["kind"] == kind:
            leaf = json.loads(read.leaf)
            change(leaf)
            raw = canonical.dumps(leaf)
            made.append(chain.write_line(chain.seal(read.prev, raw), raw, read.prev))
        else:
            made.append(line)
    return made


def _members(database: Database) -> int:
    with database.read() as session:
        return len(session.execute(MEMBER.select()).all())


@dataclass
class Person:
    """The reference: one person, and everything that was ever computed on her data."""

    block: str | None = None
    spent: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def within(self, limits: tuple[int, ...]) -> bool:
        """Whether some order holds all of it."""
        totals = [sum(parts) for parts in zip(*self.spent.values(), strict=True)] or [0] * 16
        return any(total <= limit for total, limit in zip(totals, limits, strict=True))


class BlocksMachine(RuleBasedStateMachine):
    """A hundred people, files about some of them, jobs on files; each person keeps her own book."""

    jobs = Bundle("jobs")

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}")
        self.database.create_all()
        with self.database.unit_of_work() as session:
            open_population(session, clients=100, epsilon=2.0)
        self.people = {number: Person() for number in range(100)}
        self.sizes: dict[str, int] = {}
        self.files: dict[str, tuple[str, list[int]]] = {}
        self.left: dict[str, int] = {}
        self.prices: dict[str, tuple[Price, list[int], int]] = {}
        self.count = 0

    @rule(name=st.sampled_from("abcd"), size=st.integers(5, 40))
    def open_a_block(self, name: str, size: int) -> None:
        refused = refusal_of(lambda: self._do(lambda session: opened(session, name, size)))
        fits = name not in self.sizes and sum(self.sizes.values()) + size <= 100
        assert (refused is None) == fits
        if fits:
            self.sizes[name] = size

    @rule(name=st.sampled_from("abcd"), first=st.integers(0, 99), step=st.sampled_from([1, 3]))
    def register_a_file(self, name: str, first: int, step: int) -> None:
        size = self.sizes.get(name, 5)
        persons = [(first + step * number) % 100 for number in range(size)]
        self.count += 1
        dataset = f"ds_{self.count}"
        refused = refusal_of(
            lambda: self._do(lambda session: enrol(session, name, persons, dataset))
        )
        apart = all(self.people[person].block in (None, name) for person in persons)
        assert (refused is None) == (apart and name in self.sizes)
        if refused is None:
            self.files[dataset] = (name, persons)
            for person in persons:
                self.people[person].block = name

    @rule(
        target=jobs,
        data=st.data(),
        rounds=st.integers(1, 60),
        noise=st.sampled_from([0.8, 2.0, 8.0]),
        everybody=st.booleans(),
    )
    def reserve(self, data: Any, rounds: int, noise: float, everybody: bool) -> object:
        self.count += 1
        job, block, persons, dataset = f"job_{self.count}", None, list(self.people), "ds_all"
        if self.files and not everybody:
            dataset = data.draw(st.sampled_from(sorted(self.files)))
            block, persons = self.files[dataset]
        clients = 100 if block is None else self.sizes[block]
        asked = price(Mechanism("poisson_gaussian", noise, clients, max(1, clients // 5)))
        with self.database.read() as session:
            before = ledger.balance(session, "pop_a")
        # Conservative: a file's block may hold more people than the file.
        trial = {
            person: Person(None, self.people[person].spent | {job: asked.total(rounds)})
            for person in persons
        }
        refused = refusal_of(
            lambda: self._do(
                lambda session: self._reserve(session, job, block, dataset, asked, rounds)
            )
        )
        if refused is not None:
            assert refused.code == "budget_exceeded"
            return multiple()
        assert all(person.within(before.limits) for person in trial.values())
        for person in persons:
            self.people[person].spent[job] = asked.total(rounds)
        self.left[job], self.prices[job] = rounds, (asked, persons, rounds)
        return job

    @rule(job=jobs, rounds=st.integers(1, 40))
    def charge(self, job: str, rounds: int) -> None:
        self.count += 1
        taken: list[int] = []
        attempt = self.count
        self._do(lambda session: taken.append(_taken(session, job, rounds, attempt)))
        assert taken == [min(rounds, self.left[job])]
        self.left[job] -= taken[0]

    @rule(job=jobs)
    def settle(self, job: str) -> None:
        self._do(
            lambda session: ledger.settle(session, job_id=job, reason="done", facts=FACTS, now=NOW)
        )
        asked, persons, rounds = self.prices[job]
        if self.left[job]:
            self.left[job], done = 0, rounds - self.left[job]
            for person in persons:
                self.people[person].spent[job] = asked.total(done)
            self.prices[job] = (asked, persons, done)

    @invariant()
    def nobody_is_beyond_the_budget(self) -> None:
        if not hasattr(self, "database"):
            return
        with self.database.read() as session:
            limits = ledger.balance(session, "pop_a").limits
        assert all(person.within(limits) for person in self.people.values())

    def teardown(self) -> None:
        if hasattr(self, "database"):
            report = verify(export(self.database))
            assert report.ok, report.problems[:3]
            self.database.close()
            self.folder.cleanup()

    def _reserve(
        self,
        session: Session,
        job: str,
        block: str | None,
        dataset: str,
        asked: Price,
        rounds: int,
    ) -> None:
        ledger.reserve(
            session,
            ledger.lock(session, ["pop_a"])["pop_a"],
            job_id=job,
            researcher_id="usr_r",
            price=asked,
            rounds=rounds,
            facts=FACTS | {"dataset": dataset},
            now=NOW,
            lease_expires_at=SOON,
            block=block,
        )

    def _do(self, act: Any) -> None:
        with self.database.unit_of_work() as session:
            act(session)


def _taken(session: Session, job: str, rounds: int, attempt: int) -> int:
    return charge(session, job, rounds, attempt).rounds_charged


TestBlocksMachine = BlocksMachine.TestCase
TestBlocksMachine.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
