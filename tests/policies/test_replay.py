"""Stored questions asked again: equal on both engines, and told where they cannot be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from kit.db import Database
from policies import archive, coverage, life, publication, replay, revisions
from policies import ask as asking
from policies.ask import ask
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.library import Library, library, library_of
from policies.opa import OpaEngine
from policies.probes import samples
from policies.tables import PolicyLibrary
from tests.support.questions import example

NOW = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
SOURCE, TESTS = example("price_cap")


def _asked(database: Database, engine: EmbeddedEngine | OpaEngine) -> Revision:
    """A revision, and its recorded decisions on two dozen questions."""
    with database.unit_of_work() as session:
        revision = revisions.draft(
            session,
            dataset_id="ds_1",
            source=SOURCE,
            tests=TESTS,
            reason="r",
            author_id="usr_owner",
            now=NOW,
        )
        for probe in samples(SOURCE)[:24]:
            made = ask(engine, revision, probe.question, deadline_seconds=20)
            revisions.record(
                session, made, job_id=None, subject_id="usr", now=NOW, dataset_id="ds_1"
            )
    return revision


def _rows(database: Database, last: int = 100) -> list[dict[str, Any]]:
    with database.read() as session:
        return life.recent(session, "ds_1", last=last)


def test_archived_questions_get_the_same_decision_on_either_engine(
    sqlite_database: Database,
    engine: EmbeddedEngine | OpaEngine,
    embedded: EmbeddedEngine,
    opa: OpaEngine,
) -> None:
    revision = _asked(sqlite_database, engine)
    rows = _rows(sqlite_database)
    assert {row["outcome"] for row in rows} >= {"allow", "deny"}
    for other in (embedded, opa):
        found = replay.repeat(other, {revision.id: revision}, rows)
        assert [one.standing for one in found] == ["same"] * 24, other.name
        assert [one.decision_id for one in found] == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("change", "standing"),
    [
        ({"digest": "0" * 64}, "different"),
        ({"input_digest": "0" * 64}, "different"),
        ({"fault": "timeout"}, "unrepeatable"),
        ({"library_digest": "0" * 64}, "unrepeatable"),
        ({"revision_id": None}, "unrepeatable"),
    ],
    ids=str,
)
def test_what_was_forged_differs_and_what_cannot_be_repeated_is_told(
    sqlite_database: Database, embedded: EmbeddedEngine, change: dict[str, Any], standing: str
) -> None:
    revision = _asked(sqlite_database, embedded)
    (row,) = _rows(sqlite_database, last=1)
    (found,) = replay.repeat(embedded, {revision.id: revision}, [row | change])
    assert found.standing == standing
    assert bool(found.detail)


@pytest.fixture
def older() -> Library:
    """A library that says another thing where the installed one caps a price."""
    texts = dict(library().modules)
    moved = texts["price.rego"].replace('"price_above_limit"', '"price_above_what_was_the_limit"')
    assert moved != texts["price.rego"]
    return library_of(texts | {"price.rego": moved})


def test_a_decision_is_repeated_with_the_library_it_was_made_with(
    database: Database,
    engine: EmbeddedEngine | OpaEngine,
    embedded: EmbeddedEngine,
    opa: OpaEngine,
    older: Library,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as then:
        # The version of the gateway that had the older library decides, and keeps it.
        for module in (publication, asking, archive):
            then.setattr(module, "library", lambda: older)
        publication.publication.cache_clear()
        with database.unit_of_work() as session:
            archive.keep(session, now=NOW)
            archive.keep(session, now=NOW)
        revision = _asked(database, engine)
    publication.publication.cache_clear()
    with database.unit_of_work() as session:
        archive.keep(session, now=NOW)
    rows = _rows(database)
    assert {row["library_digest"] for row in rows} == {older.digest}
    assert any("price_above_what_was_the_limit" in row["verdict"] for row in rows)
    with database.read() as session:
        kept = archive.kept(session, {older.digest, library().digest})
    assert kept == {older.digest: older, library().digest: library()}
    for other in (embedded, opa):
        found = replay.repeat(other, {revision.id: revision}, rows, kept)
        assert [one.standing for one in found] == ["same"] * 24, other.name
        unkept = replay.repeat(other, {revision.id: revision}, rows)
        assert {one.standing for one in unkept} == {"unrepeatable"}
        # The installed library under the old digest: the digests notice.
        forged = replay.repeat(other, {revision.id: revision}, rows, {older.digest: library()})
        assert "different" in {one.standing for one in forged}


@pytest.mark.parametrize(
    "texts",
    [
        json.dumps({"a.rego": "package gateway.a"}),
        '{"a.rego":"no module"}',
        '["a.rego"]',
        '{"a.rego":NaN}',
        '{"a.rego":"packa',
        "",
        f'{{"a.rego":"{"x" * archive.LARGEST_LIBRARY}"}}',
    ],
    ids=["another", "unreadable", "list", "number", "cut", "empty", "large"],
)
def test_a_library_that_is_not_what_it_is_called_is_not_used(
    database: Database, texts: str
) -> None:
    with database.unit_of_work() as session:
        session.execute(sa.insert(PolicyLibrary).values(digest="0" * 64, texts=texts, created_at=0))
    with database.read() as session:
        assert archive.kept(session, {"0" * 64}) == {}
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.unit_of_work() as session:
        session.execute(sa.update(PolicyLibrary).values(digest="1" * 64))


def test_an_answer_in_a_batch_is_the_answer_alone(embedded: EmbeddedEngine) -> None:
    revision = Revision.of_text(SOURCE, TESTS)
    documents = [probe.question.canonical for probe in samples(SOURCE)]
    together = embedded.evaluate_many(revision, documents, 20.0)
    alone = [embedded.evaluate(revision, document, 20.0) for document in documents]
    assert together == alone


def test_a_broken_question_in_a_batch_harms_no_other(embedded: EmbeddedEngine) -> None:
    revision = Revision.of_text(SOURCE, TESTS)
    good = samples(SOURCE)[0].question.canonical
    answers = embedded.evaluate_many(revision, [good, b"{", good], 20.0)
    assert [answer.fault is None for answer in answers] == [True, False, True]
    assert answers[0] == answers[2] == embedded.evaluate(revision, good, 20.0)


POLICY = """package p

decision := {"allow": count(deny) == 0, "deny": deny}

deny contains "many" if {
	input.job.rounds > 5
}

deny contains "dear" if {
	input.cost.epsilon_nano > 5
}
"""


def test_coverage_names_the_rules_that_no_test_reached(embedded: EmbeddedEngine) -> None:
    one = """package p_test

import data.p

test_many if count(p.decision.deny) == 1 with input as {"job": {"rounds": 6}}
"""
    both = one.replace("}}", '}, "cost": {"epsilon_nano": 6}}').replace("== 1", "== 2")
    found = coverage.measure(embedded, POLICY, one)
    whole = coverage.measure(embedded, POLICY, both)
    assert found is not None
    assert whole is not None
    assert found.rules == ("deny (line 9)",)
    assert found.percent < 100
    assert (whole.rules, whole.percent) == ((), 100)
    assert coverage.measure(object(), POLICY, one) is None
