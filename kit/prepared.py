"""Statements of the hot path: their texts made once, many of them in one way to the server.

A statement is written in SQLAlchemy Core like every other; its text, the order of its parameters
and the conversions of both are taken from the compiler once for each database, and what runs
afterwards is the driver alone. On PostgreSQL a batch goes out as a pipeline: the server works
through it in order, statement by statement, and the answers come back together. Rows to insert
travel as one JSON text a table there, and as the driver's many rows on SQLite. A batch belongs to
the caller's transaction; nothing here may begin or commit one, or hide an error of the database.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

Made = TypeVar("Made")
Convert = Callable[[Any], Any]
Insert = SqliteInsert | PostgresqlInsert

_DOUBLE: Final = 701
_JSON: Final = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave: the rows it returned, and how many it matched or wrote."""

    rows: list[Any]
    matched: int


@dataclass(frozen=True, slots=True)
class _Text:
    """A statement as one driver takes it."""

    sql: str
    names: tuple[str, ...]
    incoming: tuple[tuple[int, Convert], ...]
    outgoing: tuple[tuple[int, Convert], ...]
    row: Any
    fixed: Mapping[str, Any]

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Parameters in the driver's order and form."""
        if self.fixed:
            values = {**self.fixed, **values}
        found = [values[name] for name in self.names]
        for place, convert in self.incoming:
            found[place] = convert(found[place])
        return found

    def rows(self, cursor: Any) -> list[Any]:
        """What the cursor returned, as named tuples."""
        if self.row is None:
            return []
        make, outgoing = self.row, self.outgoing
        if not outgoing:
            return [make(*found) for found in cursor]
        made = []
        for found in cursor:
            values = list(found)
            for place, convert in outgoing:
                values[place] = convert(values[place])
            made.append(make(*values))
        return made


class Prepared:
    """A statement with named parameters: a select, update, delete, or one row's insert."""

    def __init__(self, statement: sa.Select[Any] | sa.UpdateBase, *columns: str) -> None:
        self._statement, self._columns = statement, columns
        self._texts: dict[str, _Text] = {}

    def text(self, dialect: sa.Dialect) -> _Text:
        """The statement for one database, made when first asked for."""
        found = self._texts.get(dialect.name)
        if found is None:
            columns = list(self._columns) or None
            found = self._texts[dialect.name] = _compiled(self._statement, dialect, columns)
        return found

    def on(self, raw: Any, dialect: sa.Dialect, values: Mapping[str, Any]) -> Callable[[], Answer]:
        """Send it; the answer may be asked for when the batch is through."""
        text = self.text(dialect)
        cursor = raw.cursor()
        _execute(cursor, dialect, text.sql, text.arguments(values))
        return lambda: Answer(text.rows(cursor), cursor.rowcount)


class Rows:
    """An insert of many rows of one table, in one statement where the database can.

    Args:
        table: whose rows.
        columns: the columns that are given; the others have defaults of the database.
        made: adds a conflict clause or `RETURNING`, the same on both databases.
    """

    def __init__(
        self,
        table: sa.Table,
        columns: Sequence[str] | None = None,
        made: Callable[[Any], Any] = lambda insert: insert,
    ) -> None:
        self._table, self._made = table, made
        self._columns = tuple(columns or (column.name for column in table.columns))
        self._texts: dict[str, _Text] = {}
        self._converts: list[tuple[str, Convert]] | None = None  # of PostgreSQL

    def text(self, dialect: sa.Dialect) -> _Text:
        """The statement for one database, made when first asked for."""
        found = self._texts.get(dialect.name)
        if found is None:
            found = self._texts[dialect.name] = (
                _compiled(self._made(sqlite_insert(self._table)), dialect, list(self._columns))
                if dialect.name == "sqlite"
                else _compiled(self._of_json(), dialect, None)
            )
        return found

    def on(
        self, raw: Any, dialect: sa.Dialect, rows: Sequence[Mapping[str, Any]]
    ) -> Callable[[], Answer]:
        """Send the rows, in their order; the answer may be asked for when the batch is through."""
        text, cursor = self.text(dialect), raw.cursor()
        if dialect.name != "sqlite":
            _execute(cursor, dialect, text.sql, [self._json(dialect, rows)])
            return lambda: Answer(text.rows(cursor), cursor.rowcount)
        arguments = [text.arguments(row) for row in rows]
        if text.row is None:
            cursor.executemany(text.sql, arguments)
            return lambda: Answer([], cursor.rowcount)
        found: list[Any] = []  # this driver returns nothing of many rows at once
        for each in arguments:
            found += text.rows(cursor.execute(text.sql, each))
        return lambda: Answer(found, len(found))

    def _of_json(self) -> Any:
        """The insert of a JSON array of objects, each column read as its own type."""
        source = given([self._table.c[name] for name in self._columns])
        insert = postgresql_insert(self._table)
        return self._made(
            insert.from_select(
                list(self._columns),
                sa.select(*(source.c[name] for name in self._columns)),
                include_defaults=False,
            )
        )

    def _json(self, dialect: sa.Dialect, rows: Sequence[Mapping[str, Any]]) -> str:
        converts = self._converts
        if converts is None:
            found = [(name, _incoming(self._table.c[name].type, dialect)) for name in self._columns]
            converts = [(name, convert) for name, convert in found if convert is not None]
            self._converts = converts
        if converts:
            rows = [
                {**row, **{name: convert(row[name]) for name, convert in converts}} for row in rows
            ]
        return _JSON(rows)


def given(columns: Sequence[sa.ColumnElement[Any]]) -> Any:
    """PostgreSQL's table of a JSON array of objects with these members, the parameter `rows`."""
    members: list[Any] = [sa.column(str(column.key), column.type) for column in columns]
    document = sa.cast(sa.bindparam("rows", type_=sa.Text()), sa.JSON())
    source = sa.func.json_to_recordset(document).table_valued(*members)
    return source.render_derived(name="given", with_types=True)


class Each:
    """A select for one set of parameters, run for many; rows come for each set, in any order.

    On PostgreSQL it is one statement: the select stands beside the sets as `LATERAL`, limited to
    one row a set, so that its plan reads by key whatever the tables' sizes were when it was made.

    Args:
        one: the select; at most one row for a set of parameters.
        columns: whose values the parameters are, by their names.
    """

    def __init__(
        self, one: Callable[..., sa.Select[Any]], columns: Sequence[sa.ColumnElement[Any]]
    ) -> None:
        binds = [sa.bindparam(column.key, type_=column.type) for column in columns]
        sets = given(columns)
        beside = one(*(sets.c[column.key] for column in columns)).limit(sa.literal_column("1"))
        found = beside.lateral("found")
        self._one = Prepared(one(*binds))
        self._many = Prepared(sa.select(found).select_from(sets.join(found, sa.true())))

    def calls(self, session: Session, sets: Sequence[Mapping[str, Any]]) -> list[Call]:
        """One call for all sets where the database can, else one for each."""
        if not sets:
            return []
        if session.get_bind().dialect.name == "sqlite" or len(sets) == 1:
            return [(self._one, each) for each in sets]
        return [(self._many, {"rows": _JSON(sets)})]


Call = tuple[Prepared, Mapping[str, Any]] | tuple[Rows, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Asked(Generic[Made]):
    """A part of a batch: some calls, and what their answers mean."""

    calls: Sequence[Call]
    read: Callable[[Sequence[Answer]], Made]


def nothing(calls: Sequence[Call]) -> Asked[None]:
    """Calls without an answer."""
    return Asked(calls, lambda _: None)


def ask(session: Session, *parts: Asked[Any]) -> tuple[Any, ...]:
    """Run the parts' calls in their order as one batch, and read each part's answers.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy would wrap what the driver raised; a connection
            that is gone leaves the pool.
    """
    answers = run(session.connection(), [call for part in parts for call in part.calls])
    found, place = [], 0
    for part in parts:
        found.append(part.read(answers[place : place + len(part.calls)]))
        place += len(part.calls)
    return tuple(found)


def one(session: Session, statement: Prepared, values: Mapping[str, Any]) -> Answer:
    """Run one statement; see `ask`."""
    (answer,) = run(session.connection(), [(statement, values)])
    return answer


def run(connection: sa.Connection, calls: Sequence[Call]) -> list[Answer]:
    """Run calls in their order inside the connection's transaction; see `ask`."""
    if not calls:
        return []
    dialect = connection.dialect
    raw: Any = connection.connection.driver_connection
    with _told(connection, raw):
        if dialect.name == "sqlite" or len(calls) == 1:
            return [_sent(call, raw, dialect)() for call in calls]
        with raw.pipeline():
            waiting = [_sent(call, raw, dialect) for call in calls]
        return [answer() for answer in waiting]


def _sent(call: Call, raw: Any, dialect: sa.Dialect) -> Callable[[], Answer]:
    statement, values = call
    return statement.on(raw, dialect, values)  # type: ignore[arg-type]


def _execute(cursor: Any, dialect: sa.Dialect, sql: str, arguments: Sequence[Any]) -> None:
    if dialect.name == "sqlite":
        cursor.execute(sql, arguments)
    else:  # the server keeps its plan from the first time on: few texts, run for ever
        cursor.execute(sql, arguments, prepare=True)


@contextmanager
def _told(connection: sa.Connection, raw: Any) -> Iterator[None]:
    """Errors of the driver as SQLAlchemy tells them."""
    dialect = connection.dialect
    driver: Any = dialect.loaded_dbapi
    try:
        yield
    except driver.Error as error:
        gone = dialect.is_disconnect(error, raw, None)
        if gone:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            "(a batch of prepared statements)",
            None,
            error,
            driver.Error,
            connection_invalidated=gone,
            dialect=dialect,
        ) from error


def _compiled(statement: Any, dialect: sa.Dialect, columns: list[str] | None) -> _Text:
    """Text and conversions as SQLAlchemy's compiler makes them, with parameters by place."""
    by_place: Any = type(dialect)
    placed = dialect if dialect.name == "sqlite" else by_place(paramstyle="format")
    compiled: Any = statement.compile(dialect=placed, column_keys=columns)
    names = tuple(compiled.positiontup or ())
    types = {name: bind.type for name, bind in compiled.binds.items()}
    returned = _returned(statement)
    return _Text(
        sql=compiled.string,
        names=names,
        incoming=_placed([_incoming(types[name], dialect) for name in names]),
        outgoing=_placed([_outgoing(column.type, dialect) for column in returned]),
        row=_row(tuple(column.key for column in returned)),
        fixed={name: bind.value for name, bind in compiled.binds.items() if not bind.required},
    )


def _returned(statement: Any) -> list[Any]:
    """The columns that come back."""
    if isinstance(statement, sa.Select):
        return list(statement.exported_columns)
    return list(statement.exported_columns) if statement._returning else []  # noqa: SLF001


def _row(names: tuple[str, ...]) -> Any:
    make: Any = namedtuple
    return make("_Row", names) if names else None


def _placed(converts: Sequence[Convert | None]) -> tuple[tuple[int, Convert], ...]:
    found = enumerate(converts)
    return tuple((place, convert) for place, convert in found if convert is not None)


def _incoming(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert | None:
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _outgoing(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert | None:
    # The one type that asks what the server sends; every float of the house is a double.
    return kind.dialect_impl(dialect).result_processor(dialect, _DOUBLE)
