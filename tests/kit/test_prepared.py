"""Statements made once and run in batches give what SQLAlchemy itself would give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from kit import prepared
from kit.db import Database
from kit.prepared import Asked, Each, Prepared, Rows

_PLACES = sa.MetaData()
_PLACE = sa.Table(
    "place",
    _PLACES,
    sa.Column("id", sa.String(20), primary_key=True),
    sa.Column("number", sa.BigInteger),
    sa.Column("share", sa.Float),
    sa.Column("open", sa.Boolean),
    sa.Column("text", sa.Text),
    sa.Column("more", sa.JSON),
)
_ROW = {"number": None, "share": 0.1, "open": True, "text": "", "more": None}
_ROWS = [
    _ROW
    | {"id": "a", "number": 2**62, "share": 1e-300, "text": "\"quoted\" \\ 'twice' %s :x é 漢"},
    _ROW | {"id": "b", "number": -1, "open": False, "text": "line\nline\t{}[]"},
    _ROW | {"id": "c", "open": None, "share": 0.1 + 0.2},
]
_NAMED = _PLACE.c.id == sa.bindparam("named")
_BY_ID = Prepared(sa.select(_PLACE).where(_NAMED))
_MOVE = Prepared(sa.update(_PLACE).where(_NAMED), "number", "open")
_PUT = Rows(_PLACE, [name for name in _ROW if name != "more"] + ["id"])


@pytest.fixture
def places(database: Database) -> Iterator[Database]:
    _PLACES.create_all(database.engine)
    yield database
    _PLACES.drop_all(database.engine)


def _put(rows: list[dict[str, object]]) -> Asked[None]:
    return prepared.nothing([(_PUT, rows)])


def _found(*names: str) -> Asked[list[tuple[object, ...]]]:
    return Asked(
        [(_BY_ID, {"named": name}) for name in names],
        lambda answers: [tuple(row) for answer in answers for row in answer.rows],
    )


def test_rows_are_what_the_core_would_have_stored(places: Database) -> None:
    with places.unit_of_work() as session:
        prepared.ask(session, _put(_ROWS))
    with places.read() as session:
        stored = session.execute(sa.select(_PLACE).order_by(_PLACE.c.id)).mappings().all()
        (read,) = prepared.ask(session, _found("a", "b", "c"))
    assert [dict(row) for row in stored] == [_ROW | row for row in _ROWS]
    assert read == [tuple(row[column.name] for column in _PLACE.columns) for row in stored]


def test_a_batch_runs_in_its_order_and_tells_what_it_matched(places: Database) -> None:
    with places.unit_of_work() as session:
        change = {"named": "b", "number": 7, "open": True}
        moved = Asked([(_MOVE, change), (_MOVE, change | {"named": "z"})], list)
        before, _, between, answers, after = prepared.ask(
            session, _found("b"), _put(_ROWS), _found("b"), moved, _found("b")
        )
    assert (before, [row[1] for row in between], [row[1] for row in after]) == ([], [-1], [7])
    assert [answer.matched for answer in answers] == [1, 0]


def test_one_select_for_many_sets_of_parameters(places: Database) -> None:
    each = Each(
        lambda name, number: sa.select(_PLACE).where(_PLACE.c.id == name, _PLACE.c.number < number),
        [_PLACE.c.id, _PLACE.c.number],
    )
    sets = [{"id": "a", "number": 5}, {"id": "b", "number": 5}, {"id": "z", "number": 5}]
    with places.unit_of_work() as session:
        prepared.ask(session, _put(_ROWS))
        for wanted in (sets, sets[1:2], []):
            part = Asked(
                each.calls(session, wanted),
                lambda answers: [row.id for answer in answers for row in answer.rows],
            )
            (found,) = prepared.ask(session, part)
            assert found == ["b"] * bool(wanted)


def test_a_refused_row_is_told_like_the_cores_and_undoes_the_batch(places: Database) -> None:
    with places.unit_of_work() as session:
        prepared.ask(session, _put(_ROWS[:1]))
    with pytest.raises(sa.exc.IntegrityError), places.unit_of_work() as session:
        prepared.ask(session, _put(_ROWS[1:]), _put(_ROWS[:1]), _found("a"))
    with places.read() as session:
        (found,) = prepared.ask(session, _found("a", "b", "c"))
    assert [row[0] for row in found] == ["a"]


def test_a_lost_connection_is_told_and_leaves_the_pool(places: Database) -> None:
    if places.is_sqlite:
        pytest.skip("SQLite has no connection to lose")
    with places.unit_of_work() as session:
        prepared.ask(session, _put(_ROWS))
    with pytest.raises(sa.exc.DBAPIError) as caught, places.unit_of_work() as session:
        mine = session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        _terminate(places, mine)
        prepared.ask(session, _found("a"), _found("b"))
    assert caught.value.connection_invalidated
    with places.read() as session:
        (found,) = prepared.ask(session, _found("a"))
    assert len(found) == 1


def test_a_pooled_connection_that_was_ended_is_replaced_before_it_is_used(
    places: Database,
) -> None:
    if places.is_sqlite:
        pytest.skip("SQLite has no connection to lose")
    with places.read() as session:
        idle = session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    with Database(places.url.render_as_string(hide_password=False)).read() as other:
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": idle})
    with places.read() as session:
        present = session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    assert present != idle


def test_what_the_server_has_prepared_outlives_a_transaction(postgresql_database: Database) -> None:
    """Reading ends in no rollback, after which the driver would forget all its statements."""
    _PLACES.create_all(postgresql_database.engine)
    kept = sa.text("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%place%'")
    for transaction in (postgresql_database.read, postgresql_database.unit_of_work):
        with transaction() as session:
            prepared.ask(session, _found("a"))
            pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        with postgresql_database.read() as session:
            assert session.scalar(sa.text("SELECT pg_backend_pid()")) == pid
            assert session.scalar(kept) == 1
            session.execute(sa.text("DEALLOCATE ALL"))


def _terminate(database: Database, pid: int) -> None:
    end = sa.text("SELECT pg_terminate_backend(:pid, 5000)")
    with database.read() as session:
        assert session.execute(end, {"pid": pid}).scalar_one()
