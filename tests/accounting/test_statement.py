"""Statements: exact figures, seamless periods, one signature, and an export that says the same."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

import pytest

from accounting import blocks, ledger, sequencer
from accounting.statement import statement
from gateway import statement_page
from kit.db import Database
from privacy_gateway import account, checkpoint, rdp
from privacy_gateway import statement as statements
from privacy_gateway.checkpoint import BadNote, Signer
from privacy_gateway.errors import Refused
from tests.accounting.support import (
    FACTS,
    NOW,
    SOON,
    export,
    job_price,
    open_population,
)

OLD = checkpoint.new_signer("privacy-gateway/test", b"o" * 32)
NEW = checkpoint.new_signer("privacy-gateway/test", b"n" * 32)
LATER = NOW + timedelta(days=30)


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def reserved(
    session: Any, job: str, minutes: float, rounds: int = 10, who: str = "usr_r", **facts: Any
) -> None:
    ledger.reserve(
        session,
        ledger.lock(session, ["pop_a"])["pop_a"],
        job_id=job,
        researcher_id=who,
        price=job_price(),
        rounds=rounds,
        facts=FACTS | facts,
        now=at(minutes),
        lease_expires_at=SOON,
    )


def charged(session: Any, job: str, minutes: float, first: int = 1, rounds: int = 5) -> None:
    ledger.charge(
        session,
        job_id=job,
        round_first=first,
        rounds=rounds,
        attempt=1,
        fence=1,
        facts=FACTS,
        now=at(minutes),
    )


def signed(database: Database, *signers: Signer) -> None:
    with database.unit_of_work() as session:
        sequencer.integrate(session)
        sequencer.sign(session, signers or (OLD,), now=NOW)


@pytest.fixture
def books(database: Database) -> Database:
    """An hour of one population: two jobs of two people, a grant, a refusal, a freeze."""
    with database.unit_of_work() as session:
        open_population(session)
        open_population(session, "pop_b")
        reserved(session, "job_1", 1, dataset="dat_1", purpose="research")
        charged(session, "job_1", 2)
        reserved(session, "job_2", 10, who="usr_s", dataset="dat_2", purpose="teaching")
        charged(session, "job_1", 20, first=6)
        charged(session, "job_2", 30, rounds=4)
        ledger.settle(session, job_id="job_2", reason="done", facts=FACTS, now=at(31))
        ledger.grant(
            session, population_id="pop_a", epsilon=1.5, reason="more", actor_id="usr_o", now=at(40)
        )
        ledger.deny(
            session,
            population_id="pop_a",
            job_id=None,
            researcher_id="usr_r",
            code="policy_denied",
            facts={},
            now=at(50),
        )
        ledger.freeze(session, population_id="pop_a", reason="stop", actor_id="usr_o", now=at(55))
    signed(database)
    return database


def told(
    database: Database, since: float | None = None, until: float | None = None, **more: Any
) -> Any:
    with database.read() as session:
        return statement(
            session,
            more.pop("signers", [OLD]),
            population_id="pop_a",
            since=None if since is None else at(since),
            until=None if until is None else at(until),
            now=LATER,
            **more,
        )


def test_every_figure_is_the_ledgers(books: Database) -> None:
    document = told(books, 5, 60)
    found = document["statement"]
    per_round = job_price().per_round
    with books.read() as session:
        before = ledger.odometer(session, "pop_a", at=at(5))
        after = ledger.odometer(session, "pop_a", at=at(60))
    for name, odometer in (("opening", before), ("closing", after)):
        assert found[name]["seq"] == odometer.seq
        assert found[name]["spent_nano"] / rdp.NANO == odometer.epsilon_spent
        assert found[name]["reserved_nano"] / rdp.NANO == odometer.epsilon_reserved
        assert found[name]["remaining_nano"] / rdp.NANO == odometer.epsilon_remaining
    assert found["closing"]["epsilon_nano"] == 9_500_000_000
    assert (found["opening"]["frozen"], found["closing"]["frozen"]) == (False, True)
    assert [(grant["epsilon_nano"], grant["reason"]) for grant in found["grants"]] == [
        (1_500_000_000, "more")
    ]
    assert found["refusals"] == {"count": 1, "codes": {"policy_denied": 1}}
    jobs = {job["job"]: job for job in found["jobs"]}
    # What happened to job_1 before the period is not in it; its later charge knows no purpose.
    assert jobs["job_1"]["rounds_charged"] == 5
    assert jobs["job_2"]["cost"] == [part * 4 for part in per_round]
    assert (jobs["job_2"]["rounds_reserved"], jobs["job_2"]["rounds_given_back"]) == (10, 6)
    assert jobs["job_2"]["entries"] == [4, 6, 7]
    assert found["charged"] == [part * 9 for part in per_round]
    people = {row["name"]: row for row in found["by_researcher"]}
    assert {name: row["rounds_charged"] for name, row in people.items()} == {"usr_r": 5, "usr_s": 4}
    assert sum(row["share_ppm"] for row in found["by_researcher"]) in (999_999, 1_000_000)
    assert {row["name"] for row in found["by_purpose"]} == {"teaching", account.UNSTATED}
    assert {row["name"] for row in found["by_dataset"]} == {"dat_2", account.UNSTATED}
    spent = [point["spent_nano"] for point in found["burn_down"]["points"]]
    assert spent == sorted(spent)
    assert spent[-1] == found["closing"]["spent_nano"]
    assert statements.check(document, [OLD.verifier]) == (OLD.verifier,)


def test_periods_join_without_a_seam(books: Database) -> None:
    whole = told(books)["statement"]
    parts = [told(books, None, 15), told(books, 15, 35), told(books, 35, 60)]
    parts = [part["statement"] for part in parts]
    assert whole["opening"]["seq"] == 0
    for earlier, later in zip(parts, parts[1:], strict=False):
        assert later["opening"] == earlier["closing"]
    assert parts[-1]["closing"] == whole["closing"]
    assert sum(part["entries"]["count"] for part in parts) == whole["entries"]["count"] == 10
    added = [sum(column) for column in zip(*(part["charged"] for part in parts), strict=True)]
    assert added == whole["charged"] == whole["closing"]["charged"]


def test_an_export_leads_to_the_same_statement(books: Database) -> None:
    document = told(books, 5, 45)
    lines = export(books)
    assert statements.differences(document, lambda: lines)[0] == []
    for member, value in (("jobs", []), ("charged", [0] * 16), ("by_researcher", [])):
        forged = copy.deepcopy(document)
        forged["statement"][member] = value
        assert statements.differences(forged, lambda: lines)[0] == [member]
        with pytest.raises(BadNote):
            statements.check(forged, [OLD.verifier])
    shifted = copy.deepcopy(document)
    shifted["statement"]["period"]["to"] += 60 * 60 * 1_000_000
    assert "period" in statements.differences(shifted, lambda: lines)[0]


def test_each_forgery_is_refused_for_its_reason(books: Database) -> None:
    document = told(books, 5, 45)
    elsewhere = told(books, 5, 15)["statement"]["log"]
    cases: list[tuple[Any, str]] = [
        ({"closing": document["statement"]["opening"]}, "bad_signature"),
        ({"log": elsewhere}, "bad_signature"),
        ({"log": None}, "bad_signature"),
        ({"charged": [0.5]}, "malformed"),
    ]
    for change, flaw in cases:
        forged = copy.deepcopy(document)
        forged["statement"] |= change
        with pytest.raises(BadNote) as caught:
            statements.check(forged, [OLD.verifier])
        assert caught.value.flaw == flaw
    with pytest.raises(BadNote) as caught:
        statements.check(document, [NEW.verifier])
    assert caught.value.flaw == "unknown_key"
    # A gateway that signs a closing entry the checkpoint does not cover is found out too.
    resigned = statements.sign(document["statement"] | {"log": elsewhere}, [OLD])
    with pytest.raises(BadNote, match="not proven"):
        statements.check(resigned, [OLD.verifier])
    for nonsense in (None, [], {}, {"statement": {}, "signatures": []}):
        with pytest.raises(BadNote):
            statements.check(nonsense, [OLD.verifier])


def test_a_statement_outlives_its_key(books: Database) -> None:
    old = told(books, 5, 45)
    signed(books, OLD, NEW)
    both = told(books, 5, 45, signers=[OLD, NEW])
    signed(books, NEW)
    new = told(books, 5, 45, signers=[NEW])
    assert statements.check(old, [OLD.verifier]) == (OLD.verifier,)
    assert statements.check(both, [OLD.verifier]) == (OLD.verifier,)
    assert statements.check(both, [NEW.verifier]) == (NEW.verifier,)
    assert statements.check(new, [OLD.verifier, NEW.verifier]) == (NEW.verifier,)
    lines = export(books)
    for document in (old, both, new):
        assert statements.differences(document, lambda: lines)[0] == []


def test_what_cannot_be_stated_is_refused(books: Database) -> None:
    def code(*period: float | None, **more: Any) -> str:
        with pytest.raises(Refused) as caught:
            told(books, *period, **more)
        return ",".join([caught.value.code, *(error.field for error in caught.value.errors)])

    assert code(5, 60 * 24 * 31) == "invalid_request,to"
    assert code(5, 5) == "invalid_request,from"
    assert code(None, -1) == "not_found"
    assert code(5, 45, signers=[]) == "not_ready"
    with books.unit_of_work() as session:
        ledger.unfreeze(session, population_id="pop_a", reason="on", actor_id="usr_o", now=at(58))
    assert code(5, 60) == "not_ready"
    # Without an end it reaches as far as the checkpoint does.
    assert told(books)["statement"]["closing"]["seq"] == 10
    signed(books)
    assert told(books, 5, 60)["statement"]["closing"]["seq"] == 11


def test_a_fresh_statement_is_provisional_and_bears_a_late_entry(books: Database) -> None:
    with books.read() as session:
        asked = {"population_id": "pop_a", "since": at(5), "now": at(56.5)}
        fresh = statement(session, [OLD], until=at(56), **asked)
        final = statement(session, [OLD], until=at(55.5), **asked)
    with books.unit_of_work() as session:
        ledger.unfreeze(session, population_id="pop_a", reason="on", actor_id="u", now=at(55.2))
    lines = export(books)
    assert (fresh["statement"]["final"], final["statement"]["final"]) == (False, True)
    assert statements.differences(fresh, lambda: lines)[0] == []
    assert statements.differences(final, lambda: lines)[0] == ["period"]


def test_a_long_burn_down_is_thinned_and_ends_at_the_end() -> None:
    leaf = {
        "population": "pop_a", "name": "n", "privacy_unit": "p", "clients": 1000, "at": 1, "seq": 1,
        "kind": "open", "actor": "u", "terms": {"delta": "1e-06", "weights": list(_weights())},
        "balance": {"epsilon_nano": 8 * 10**9, "charged": [0] * 16, "reserved": [0] * 16,
                    "frozen": False},
    }  # fmt: skip

    def entries(count: int) -> Any:
        for seq in range(1, count + 1):
            balance = leaf["balance"] | {"charged": [seq * 10**6] * 16}  # type: ignore[operator]
            kind = "open" if seq == 1 else "note"
            changed = {"seq": seq, "at": seq, "kind": kind, "balance": balance}
            yield account.Sealed(leaf | changed, f"{seq:064x}")

    for count in (1, account.MAX_POINTS, account.MAX_POINTS + 1, 5 * account.MAX_POINTS + 3):
        found = account.build(leaf, None, entries(count), (0, count + 1))["burn_down"]
        seqs = [point["seq"] for point in found["points"]]
        assert found["changes"] == count
        assert (seqs[0], seqs[-1]) == (1, count)
        assert len(seqs) <= account.MAX_POINTS + 1
        assert seqs == sorted(set(seqs))


def _weights() -> tuple[int, ...]:
    return rdp.default_weights(8 * 10**9, "1e-06")


def test_a_blocks_people_have_a_balance_of_their_own(database: Database) -> None:
    with database.unit_of_work() as session:
        open_population(session)
        blocks.open_block(
            session,
            population_id="pop_a",
            name="north",
            clients=1000,
            reason="towns",
            actor_id="usr_o",
            now=NOW,
        )
        reserved(session, "job_1", 1)
        charged(session, "job_1", 2)
        ledger.reserve(
            session,
            ledger.lock(session, ["pop_a"])["pop_a"],
            job_id="job_2",
            researcher_id="usr_s",
            price=job_price(),
            rounds=10,
            facts=FACTS,
            now=at(3),
            lease_expires_at=SOON,
            block="north",
        )
        charged(session, "job_2", 4, rounds=4)
    signed(database)
    document = told(database)
    found, per_round = document["statement"], job_price().per_round
    assert found["closing"]["charged"] == [part * 5 for part in per_round]
    assert found["charged"] == [part * 9 for part in per_round]
    (block,) = found["blocks"]
    assert block["charged"] == [part * 4 for part in per_round]
    assert block["spent_nano"] > found["closing"]["spent_nano"]
    assert "north" in statement_page.signed_page(document, [OLD])
    lines = export(database)
    assert statements.differences(document, lambda: lines)[0] == []


def test_the_page_is_signed_as_a_whole(books: Database) -> None:
    document = told(books, 5, 60)
    page = statement_page.signed_page(document, [OLD])
    assert statements.read_page(page, [OLD.verifier]) == document
    assert "<script" not in page
    assert " style=" not in page
    shown = statement_page.epsilon(document["statement"]["closing"]["spent_nano"])
    assert page.count(f">{shown}</td>") >= 2
    for changed in (page.replace(shown, "0.000001"), page.replace("usr_s", "usr_x", 1)):
        assert changed != page
        with pytest.raises(BadNote):
            statements.read_page(changed, [OLD.verifier])
    with pytest.raises(BadNote):
        statements.read_page(page, [NEW.verifier])
    with pytest.raises(BadNote):
        statements.read_page("<p>nothing</p>", [OLD.verifier])


def test_names_are_text_on_the_page(database: Database) -> None:
    with database.unit_of_work() as session:
        open_population(session, name='<script>alert("x")</script>')
        reserved(session, "job_1", 1, purpose="</pre><b>")
        charged(session, "job_1", 2)
    signed(database)
    document = told(database)
    page = statement_page.signed_page(document, [OLD])
    assert "<script" not in page
    assert "<b>" not in page
    assert statements.read_page(page, [OLD.verifier]) == document
