"""Admission through the group-commit writer: equal to one commit each, whatever happens."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting import ledger
from jobs import admission, lifecycle, quoting
from jobs.attempt import Attempt
from jobs.principal import Principal
from jobs.settle import settle
from jobs.tables import Idempotency, Job, JobEvent, Outbox
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.support import market as markets
from tests.support.market import RESEARCHER, Market, request

BOB = Principal("usr_bob", "bob@example.org", "researcher")


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that takes half a second leaves the rest to the next one; here groups are whole."""
    monkeypatch.setattr("jobs.settle.MOST_SECONDS", 60.0)


@contextmanager
def grouped(market: Market, **options: Any) -> Iterator[Market]:
    """The market behind a writer."""
    settings = market.services.settings.model_copy(update={"group_commit": True, **options})
    services = admission.with_writer(replace(market.services, settings=settings))
    assert services.writer is not None
    try:
        yield replace(market, services=services)
    finally:
        services.writer.close()


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Iterator[Market]:
    with grouped(markets.open_market(database, engine, tmp_path)) as made:
        yield made


def at_once(market: Market, count: int, make: Any) -> list[Any]:
    """`make(n)` gives who, what and key; answers are job ids and refusal codes."""

    def one(number: int) -> str:
        who, wanted, key = make(number)
        try:
            return admission.submit(market.services, who, wanted, key).job.id
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def check_books(market: Market) -> None:
    """The export verifies, and every balance is the sum of what it holds."""
    with market.database.read() as session:
        report = verify(ledger.export_lines(session))
        assert report.ok, report.problems
        held = [entry.leaf["cost"] for entry in market.entries("reserve")]
        jobs = session.execute(sa.select(Job).order_by(Job.ordinal)).scalars().all()
        events = session.execute(sa.select(JobEvent.job_id, JobEvent.seq)).all()
        hints = set(session.execute(sa.select(Outbox.job_id)).scalars())
        keys = session.execute(sa.select(Idempotency.job_id)).scalars().all()
    sums = tuple(map(sum, zip(*held, strict=True))) if held else (0,) * 16
    assert market.balance().reserved == sums
    assert {job.id for job in jobs} == {entry.job_id for entry in market.entries("reserve")}
    assert Counter(event.job_id for event in events) == {job.id: 3 for job in jobs}
    assert hints == {job.id for job in jobs}
    assert set(keys) <= hints
    assert len(keys) == len(set(keys))
    for who in {job.researcher_id for job in jobs}:
        ordinals = [job.ordinal for job in jobs if job.researcher_id == who]
        assert ordinals == list(range(1, len(ordinals) + 1))


def test_a_budget_of_ten_jobs_admits_ten_of_a_hundred(market: Market) -> None:
    large = request(market.dataset_id, rounds=60)
    assert quoting.quote(market.services, RESEARCHER, large).how_many_more == 10
    answers = at_once(market, 100, lambda _: (RESEARCHER, large, None))
    assert Counter(answers)["budget_exceeded"] == 90
    assert len(market.entries("reserve")) == 10
    assert len(market.entries("deny")) == 90
    check_books(market)


def test_fifty_identical_posts_are_one_reservation(market: Market) -> None:
    wanted = request(market.dataset_id)
    answers = at_once(market, 50, lambda _: (RESEARCHER, wanted, "the-key"))
    assert len(set(answers)) == 1
    assert len(market.entries("reserve")) == 1
    check_books(market)


def test_two_bodies_race_for_one_key(market: Market) -> None:
    wanted = [request(market.dataset_id, rounds=rounds) for rounds in (20, 21)]
    answers = Counter(at_once(market, 20, lambda n: (RESEARCHER, wanted[n % 2], "k")))
    assert answers["idempotency_mismatch"] == 10
    assert len(answers) == 2
    check_books(market)


def test_each_request_of_a_mixed_rush_gets_its_own_answer(market: Market) -> None:
    good, ads = request(market.dataset_id), request(market.dataset_id, purpose="ads")
    greedy = request(market.dataset_id, rounds=900, noise_multiplier=0.5)
    kinds = [
        (RESEARCHER, good, None),
        (RESEARCHER, ads, "a key that a refusal leaves free"),
        (BOB, greedy, None),
        (BOB, good, "bob"),
    ]
    answers = at_once(market, 40, lambda n: kinds[n % 4])
    assert {*answers[1::4]} == {"policy_denied"}
    assert {*answers[2::4]} == {"policy_denied"}  # dearer than the policy's cap
    assert len({*answers[3::4]}) == 1  # one key, one job
    assert len({*answers[0::4]} | {*answers[3::4]}) == 11
    assert not {*answers[0::4]} & {"policy_denied"}
    check_books(market)


def attempt(market: Market, who: Principal, wanted: Any, key: str | None) -> Attempt:
    """What `submit` hands to the writer."""
    caught: list[Attempt] = []

    class Catching:
        def submit(self, given: Attempt) -> Any:
            caught.append(given)
            raise Refused("unavailable", "caught")

    services = replace(market.services, writer=Catching())  # type: ignore[arg-type]
    with pytest.raises(Refused, match="caught"):
        admission.submit(services, who, wanted, key)
    return caught[0]


def test_one_group_holds_every_kind_of_answer(market: Market) -> None:
    good, other = request(market.dataset_id), request(market.dataset_id, rounds=21)
    earlier = admission.submit(market.services, RESEARCHER, good, "old").job.id
    group = [
        attempt(market, RESEARCHER, good, "new"),
        attempt(market, RESEARCHER, request(market.dataset_id, purpose="ads"), "denied"),
        attempt(market, RESEARCHER, good, "new"),
        attempt(market, RESEARCHER, other, "new"),
        attempt(market, RESEARCHER, good, "denied"),
        attempt(market, BOB, good, "new"),
        replace(attempt(market, RESEARCHER, good, None), key="old"),
        replace(attempt(market, RESEARCHER, other, None), key="old"),
    ]
    with market.database.unit_of_work() as session:
        answers = settle(market.services, session, group)
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == [
        "Outcome", "Denied", "Outcome", "Refused", "Outcome", "Outcome", "Outcome", "Refused",
    ]  # fmt: skip
    first, _, again, mismatch, freed, bobs, replayed, late = answers
    assert (first.job.id, first.replayed) == (again.job.id, not again.replayed)
    assert [refused.code for refused in (mismatch, late)] == ["idempotency_mismatch"] * 2
    assert (freed.job.id, freed.replayed) == (group[4].job_id, False)
    assert bobs.job.id == group[5].job_id
    assert (replayed.job.id, replayed.replayed) == (earlier, True)
    check_books(market)
    with market.database.read() as session:
        rows = session.execute(sa.select(Idempotency.key, Idempotency.job_id)).all()
    assert sorted(rows) == sorted(
        [("old", earlier), ("new", first.job.id), ("denied", freed.job.id), ("new", bobs.job.id)]
    )


def test_what_moved_before_the_group_is_seen_by_each_of_it(market: Market) -> None:
    good = request(market.dataset_id)
    before = [attempt(market, RESEARCHER, good, None) for _ in range(3)]
    market.activate(markets.policy(rounds=5))
    with market.database.unit_of_work() as session:
        answers = settle(market.services, session, before)
    assert [answer.judgement.code for answer in answers] == ["policy_denied"] * 3

    market.activate(markets.policy())
    before = [attempt(market, RESEARCHER, good, None) for _ in range(3)]
    with market.database.unit_of_work() as session:
        ledger.freeze(
            session,
            population_id=market.population_id,
            reason="stop",
            actor_id="usr_owner",
            now=market.clock(),
        )
    with market.database.unit_of_work() as session:
        answers = settle(market.services, session, before)
    assert [answer.judgement.code for answer in answers] == ["frozen"] * 3
    assert market.entries("reserve") == []
    check_books(market)


def test_one_that_breaks_the_commit_breaks_no_other(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job id that exists already is found by the database alone, and takes the group down."""
    good = request(market.dataset_id)
    taken = admission.submit(market.services, RESEARCHER, good, None).job.id
    group = [attempt(market, BOB, good, None) for _ in range(5)]
    group[2] = replace(group[2], job_id=taken)
    writer = market.services.writer
    assert writer is not None
    with ThreadPoolExecutor(5) as pool:
        with held_up(market), monkeypatch.context() as patch:
            begin, begun = market.database.unit_of_work, threading.Event()
            patch.setattr(market.database, "unit_of_work", lambda: begun.set() or begin())
            waiting = [pool.submit(writer.submit, group[0])]
            assert begun.wait(30)  # the first is a group of its own; the others are the next one
            waiting += [pool.submit(writer.submit, each) for each in group[1:]]
            wait_for(lambda: writer.waiting() == len(group) - 1)
        errors = [each.exception() for each in waiting]
    assert [error is None for error in errors] == [True, True, False, True, True]
    assert isinstance(errors[2], sa.exc.IntegrityError)
    check_books(market)


@contextmanager
def held_up(market: Market) -> Iterator[None]:
    """Nobody can commit an admission meanwhile."""
    with market.database.unit_of_work() as session:
        ledger.lock(session, [market.population_id])
        yield


def wait_for(true: Any) -> None:
    deadline = threading.Event()
    for _ in range(12_000):
        if true():
            return
        deadline.wait(0.005)
    raise AssertionError("it never came true")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["usr_ada", "usr_bob"]),
        st.sampled_from(["research", "ads"]),
        st.sampled_from([1, 30, 60]),
        st.sampled_from([None, None, "k1", "k2"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, cuts=st.lists(st.integers(1, 6), min_size=14, max_size=14))
def test_any_grouping_gives_what_one_by_one_gives(
    engine: EmbeddedEngine,
    tmp_path_factory: pytest.TempPathFactory,
    steps: Sequence[Any],
    cuts: Sequence[int],
) -> None:
    """The same requests, cancellations between them, in groups of any size and alone."""
    folder = tmp_path_factory.mktemp("equal")
    results = []
    for name, sizes in (("alone", [1] * 14), ("grouped", cuts)):
        database = Database(f"sqlite:///{folder / name}.db")
        database.create_all()
        try:
            opened = markets.open_market(database, engine, folder, epsilon=3.0)
            results.append(outcome_of(opened, steps, list(sizes)))
            check_books_of_cancelled(opened)
        finally:
            database.close()
    assert results[0] == results[1]


def outcome_of(market: Market, steps: Sequence[Any], sizes: list[int]) -> Any:
    """Codes in order, the final balance, and the kinds of entries."""
    people = {"usr_ada": RESEARCHER, "usr_bob": BOB}
    answers: list[Any] = []
    rest = list(steps)
    while rest:
        size = sizes.pop(0) if sizes else 1
        chunk, rest = rest[:size], rest[size:]
        # A cancellation ends a chunk, so that both ways see it at the same place.
        if any(cancel for *_, cancel in chunk[:-1]):
            end = next(n for n, step in enumerate(chunk) if step[-1]) + 1
            chunk, rest = chunk[:end], chunk[end:] + rest
        attempts = [
            attempt_or_known(market, people[who], purpose, rounds, key)
            for who, purpose, rounds, key, _ in chunk
        ]
        with market.database.unit_of_work() as session:
            settled = settle(market.services, session, [a for a in attempts if a is not None])
        answers += [described(answer) for answer in settled]
        if chunk[-1][-1]:
            cancel_newest(market)
    kinds = [entry.kind for entry in all_entries(market)]
    return answers, market.balance().reserved, market.balance().version, kinds


def attempt_or_known(
    market: Market, who: Principal, purpose: str, rounds: int, key: str | None
) -> Attempt:
    wanted = request(market.dataset_id, purpose=purpose, rounds=rounds)
    return replace(attempt(market, who, wanted, None), key=key)


def described(answer: Any) -> Any:
    if isinstance(answer, Exception):
        return getattr(answer, "code", type(answer).__name__)
    if hasattr(answer, "judgement"):
        return answer.judgement.code
    return ("admitted", answer.replayed)


def cancel_newest(market: Market) -> None:
    with market.database.read() as session:
        newest = session.execute(
            sa.select(Job).where(Job.status == "queued").order_by(Job.id.desc()).limit(1)
        ).scalar_one_or_none()
    if newest is not None:
        who = RESEARCHER if newest.researcher_id == RESEARCHER.id else BOB
        lifecycle.cancel(market.services, who, newest.id)


def all_entries(market: Market) -> list[Any]:
    with market.database.read() as session:
        return list(ledger.entries(session, population=market.population_id, limit=1000))


def check_books_of_cancelled(market: Market) -> None:
    with market.database.read() as session:
        report = verify(ledger.export_lines(session))
    assert report.ok, report.problems
