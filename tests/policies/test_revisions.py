"""The life of a policy: drafts, activation, refusals that change nothing, and the decision log."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kit.db import Database
from policies import revisions
from policies.activation import examine, refuse_unclean
from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.errors import Fault
from policies.probes import floor_of
from policies.tables import PolicyRevision
from privacy_gateway.errors import Refused
from tests.support.questions import ALLOW_ALL, example, question

NOW = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
LATER = datetime(2026, 3, 5, 10, 30, tzinfo=UTC)
SOURCE, TESTS = example("price_cap")
FLOOR = floor_of(minimum_clients_per_round=2, minimum_noise_multiplier=0.3)


def drafted(database: Database, source: str = SOURCE, tests: str = TESTS) -> Revision:
    """A stored draft of data set ds_1."""
    with database.unit_of_work() as session:
        return revisions.draft(
            session,
            dataset_id="ds_1",
            source=source,
            tests=tests,
            reason="a reason",
            author_id="usr_owner",
            now=NOW,
        )


def activated(database: Database, engine: EmbeddedEngine, number: int) -> Revision:
    """Activate by the usual way."""
    with database.unit_of_work() as session:
        return revisions.activate(
            session,
            [engine],
            dataset_id="ds_1",
            number=number,
            actor_id="usr_owner",
            now=LATER,
            floor=FLOOR,
        )


def active(database: Database) -> Revision | None:
    """The active revision of ds_1."""
    with database.read() as session:
        return revisions.active(session, "ds_1")


def states(database: Database) -> dict[int, str]:
    """State of each revision of ds_1."""
    with database.read() as session:
        return {item.number: item.state for item in revisions.list_revisions(session, "ds_1")}


def test_a_draft_is_numbered_named_and_decides_nothing(database: Database) -> None:
    first = drafted(database)
    second = drafted(database, ALLOW_ALL, "")
    assert (first.number, second.number) == (1, 2)
    assert first.digest != second.digest
    assert active(database) is None
    with database.read() as session:
        assert revisions.get(session, dataset_id="ds_1", number=1) == first
        with pytest.raises(Refused, match="not_found"):
            revisions.get(session, dataset_id="ds_2", number=1)


def test_activation_supersedes_and_going_back_is_a_new_revision(
    database: Database, embedded: EmbeddedEngine
) -> None:
    first = drafted(database)
    assert activated(database, embedded, 1).state == "active"
    drafted(database, f"{SOURCE}\nother := 1\n")
    assert activated(database, embedded, 2).activated_at == LATER
    assert states(database) == {1: "superseded", 2: "active"}
    with pytest.raises(Refused, match="conflict"):
        activated(database, embedded, 1)
    with pytest.raises(Refused, match="conflict"):
        activated(database, embedded, 2)
    again = drafted(database)
    assert again.digest == first.digest
    activated(database, embedded, 3)
    assert states(database) == {1: "superseded", 2: "superseded", 3: "active"}


NEXT = len(SOURCE.splitlines()) + 2
"""Line of what is appended after an empty line."""

REFUSALS = [
    pytest.param(
        SOURCE + "\nx := http.send({})\n", TESTS, "source",
        f"line {NEXT}, column 6: forbidden_builtin", id="http.send",
    ),
    pytest.param(
        SOURCE + "\nx := time.now_ns()\n", TESTS, "source",
        f"line {NEXT}, column 6: forbidden_builtin", id="time.now_ns",
    ),
    pytest.param(
        SOURCE + "\nx := input.job.noise_multipler\n", TESTS, "source",
        f"line {NEXT}, column 6: unknown_input_path", id="typo",
    ),
    pytest.param(SOURCE, "", "tests", "there is no test_* rule", id="no tests"),
    pytest.param(
        SOURCE, "package t\n\ntest_no if false\n", "tests", "test_no fails", id="failing test"
    ),
    pytest.param(
        SOURCE, "package t\n\ntest_no if 1 == 1 / 0\n", "tests", "test_no fails", id="error in test"
    ),
    pytest.param(
        ALLOW_ALL,
        "package t\n\ntest_yes if true\n",
        "source",
        "probe unknown_purpose",
        id="allows everything",
    ),
    pytest.param(
        SOURCE.replace("deny contains people.purpose_in", "x contains people.purpose_in"),
        "package t\n\ntest_yes if true\n",
        "source",
        "probe unknown_purpose",
        id="any purpose",
    ),
    pytest.param("package p\n\ndecision := {", "", "source", "syntax", id="syntax"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "tests", "field", "message"), REFUSALS)
def test_a_refused_activation_says_why_and_changes_nothing(
    sqlite_database: Database,
    embedded: EmbeddedEngine,
    source: str,
    tests: str,
    field: str,
    message: str,
) -> None:
    drafted(sqlite_database)
    activated(sqlite_database, embedded, 1)
    before = active(sqlite_database)
    drafted(sqlite_database, source, tests)
    with pytest.raises(Refused) as refused:
        activated(sqlite_database, embedded, 2)
    assert refused.value.code == "policy_refused"
    problems = [error.message for error in refused.value.errors if error.field == field]
    assert any(message in problem for problem in problems), problems
    assert active(sqlite_database) == before
    assert states(sqlite_database) == {1: "active", 2: "draft"}


def test_an_examination_made_before_is_taken_for_the_same_text_only(
    sqlite_database: Database, embedded: EmbeddedEngine
) -> None:
    good = examine([embedded], Revision.of_text(SOURCE, TESTS), floor=FLOOR)
    drafted(sqlite_database, ALLOW_ALL, "package t\n\ntest_yes if true\n")
    with sqlite_database.unit_of_work() as session, pytest.raises(Refused, match="policy_refused"):
        revisions.activate(
            session,
            [embedded],
            dataset_id="ds_1",
            number=1,
            actor_id="usr_owner",
            now=LATER,
            examination=good,
        )
    drafted(sqlite_database)
    with sqlite_database.unit_of_work() as session:
        taken = revisions.activate(
            session,
            [],
            dataset_id="ds_1",
            number=2,
            actor_id="usr_owner",
            now=LATER,
            examination=good,
        )
    assert taken.state == "active"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("decision := 1", "package"),
        ("package p\n" + "#" * 70_000, "bytes"),
        ("package p\n\0", "zero"),
    ],
)
def test_what_is_no_policy_is_not_even_a_draft(
    sqlite_database: Database, source: str, message: str
) -> None:
    with pytest.raises(Refused) as refused:
        drafted(sqlite_database, source)
    assert refused.value.code == "invalid_request"
    assert refused.value.errors[0].field == "source"
    assert message in refused.value.errors[0].message


def test_authors_at_once_get_numbers_of_their_own(database: Database) -> None:
    threads = [threading.Thread(target=drafted, args=(database,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(states(database)) == [1, 2, 3, 4, 5, 6]


def test_the_database_itself_holds_one_active_revision(
    database: Database, embedded: EmbeddedEngine
) -> None:
    drafted(database)
    activated(database, embedded, 1)
    drafted(database)
    forced = (
        sa.update(PolicyRevision)
        .where(sa.column("number") == 2)
        .values(state="active", activated_at=1)
    )
    with pytest.raises(IntegrityError), database.unit_of_work() as session:
        session.execute(forced)


def test_a_decision_is_logged_with_its_input(database: Database, embedded: EmbeddedEngine) -> None:
    revision = drafted(database)
    allowed = ask(embedded, revision, question(), deadline_seconds=20)
    failed = ask(embedded, None, question())
    with database.unit_of_work() as session:
        ids = [
            revisions.record(session, made, job_id="job_1", subject_id="usr_1", now=NOW)
            for made in (allowed, failed)
        ]
    with database.read() as session:
        first, second = (revisions.decision(session, item) for item in ids)
        listed = revisions.decisions(session, dataset_ids=["ds_1"], job_id="job_1")
        assert revisions.decisions(session, dataset_ids=["ds_2"]) == []
    assert sorted(item["id"] for item in listed) == sorted(ids)
    assert first["outcome"] == "allow"
    assert first["input"] == question().document
    assert first["input_digest"] == question().digest
    assert first["revision_digest"] == revision.digest
    assert first["created_at"] == NOW
    assert (second["outcome"], second["fault"]) == ("deny", Fault.NO_POLICY)
    assert second["revision_id"] is None


@pytest.mark.parametrize("call", ["opa.runtime()", "http.send({})", "input.job.rond"])
def test_a_draft_outside_the_profile_is_refused_before_it_is_run(
    embedded: EmbeddedEngine, call: str
) -> None:
    refuse_unclean([embedded], Revision.of_text(SOURCE))
    with pytest.raises(Refused, match="policy_refused"):
        refuse_unclean([embedded], Revision.of_text(f"{SOURCE}\nx := {call}\n"))
