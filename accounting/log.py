"""The log as it stands in the database: sizes, roots, proofs, checkpoints, keys.

Every ledger entry becomes one leaf of an RFC 6962 tree; what is hashed as the leaf is the entry's
32-byte seal, which covers its bytes and every entry before it in its population's chain. So a proof
can be shown to a researcher without showing the entry, and proves the chain up to there. This
module only reads; `accounting.sequencer` writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting.errors import log_damaged
from accounting.tables import ENTRY, LOG_CHECKPOINT, LOG_KEY, LOG_LEAF, LOG_NODE
from kit.clock import from_micros
from privacy_gateway import merkle
from privacy_gateway.checkpoint import Verifier, read_verifier
from privacy_gateway.errors import Refused

# The same words for what is not there and for what is not yours to see.
NO_LEAF = "there is no such leaf in the log, or it is not yours to see"

# One text whatever is wanted, so that a database plans it once; and on PostgreSQL one row with all
# hashes joined, because rows cost more than hashes. A missing node makes the answer shorter.
_JOINED = (
    "SELECT string_agg(node.hash, ''::bytea ORDER BY wanted.turn)"
    " FROM unnest(%(levels)s::text::int[], %(places)s::text::bigint[])"
    " WITH ORDINALITY AS wanted(level, place, turn)"
    " JOIN log_node AS node ON node.level = wanted.level AND node.place = wanted.place"
)
# Asked before every admission: straight to the driver, as the look-ups below.
_LAST = "SELECT max(place) FROM log_leaf"
# SQLite scans the table for a list of pairs; joined, each is looked up in the index.
_LISTED = (
    "SELECT node.level, node.place, node.hash FROM json_each(:wanted) AS pair"
    " CROSS JOIN log_node AS node ON node.level = json_extract(pair.value, '$[0]')"
    " AND node.place = json_extract(pair.value, '$[1]')"
)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed checkpoint: `note` is the truth; root as hex."""

    origin: str
    size: int
    root: str
    note: str
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of the log and when it first signed."""

    public: str
    first_signed_at: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """An entry and its place in the log, from 0; `hash` is its seal, hex."""

    place: int
    population_id: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That the entry at `place` is in the tree of `size` with `root`; hashes as bytes."""

    place: Place
    size: int
    root: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the tree of `second` only appended to the tree of `first`."""

    first: int
    second: int
    first_root: bytes
    second_root: bytes
    path: tuple[bytes, ...]


def size(session: Session) -> int:
    """Entries integrated so far."""
    last = session.connection().exec_driver_sql(_LAST).scalar()
    return 0 if last is None else int(last) + 1


def frontier(session: Session) -> merkle.Frontier:
    """The right edge of the tree, to go on from.

    Raises:
        Refused: `unavailable` when a node is missing.
    """
    present = size(session)
    places = merkle.cover(0, present)
    found = nodes(session, places)
    return merkle.Frontier(present, [found[place] for place in places])


def nodes(
    session: Session, places: Iterable[merkle.Coordinates]
) -> dict[merkle.Coordinates, bytes]:
    """Hashes of complete subtrees by (level, place).

    Raises:
        Refused: `unavailable` when one is missing.
    """
    wanted = list(dict.fromkeys(places))
    found = _stored(session, wanted) if wanted else {}
    for place in wanted:
        if place not in found:
            raise log_damaged(f"node {place[1]} of level {place[0]} is missing")
    return found


def _stored(session: Session, wanted: list[merkle.Coordinates]) -> dict[merkle.Coordinates, bytes]:
    """Those of these nodes that there are, in one statement; each looked up in the index.

    Straight to the driver: what SQLAlchemy adds to a statement takes longer than the look-ups.
    """
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        levels, places = zip(*wanted, strict=True)
        asked = {"levels": _array(levels), "places": _array(places)}
        joined = bytes(connection.exec_driver_sql(_JOINED, asked).scalar() or b"")
        if len(joined) == merkle.HASH_BYTES * len(wanted):
            at = range(0, len(joined), merkle.HASH_BYTES)
            hashes = [joined[start : start + merkle.HASH_BYTES] for start in at]
            return dict(zip(wanted, hashes, strict=True))
        return _one_by_one(session, wanted)
    text = "[" + ",".join([f"[{level:d},{place:d}]" for level, place in wanted]) + "]"
    rows = connection.exec_driver_sql(_LISTED, {"wanted": text})
    return {(level, place): bytes(hash_) for level, place, hash_ in rows}


def _one_by_one(
    session: Session, wanted: list[merkle.Coordinates]
) -> dict[merkle.Coordinates, bytes]:
    """The same where some are missing, to tell which."""
    found = {}
    for level, place in wanted:
        this = (LOG_NODE.c.level == level, LOG_NODE.c.place == place)
        hash_ = session.execute(sa.select(LOG_NODE.c.hash).where(*this)).scalar()
        if hash_ is not None:
            found[level, place] = bytes(hash_)
    return found


def _array(numbers: Iterable[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def root(session: Session, at: int) -> bytes:
    """Root of the tree when it had `at` leaves."""
    if at == 0:
        return merkle.EMPTY_ROOT
    places = merkle.cover(0, at)
    found = nodes(session, places)
    return merkle.fold([found[place] for place in places])


def latest(session: Session) -> Signed | None:
    """The newest checkpoint."""
    query = sa.select(LOG_CHECKPOINT).order_by(LOG_CHECKPOINT.c.id.desc()).limit(1)
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    return Signed(row.origin, row.size, row.root, row.note, from_micros(row.signed_at))


def keys(session: Session) -> list[Key]:
    """Every public key that ever signed, oldest first."""
    query = sa.select(LOG_KEY).order_by(LOG_KEY.c.first_signed_at, LOG_KEY.c.public)
    return [Key(row.public, from_micros(row.first_signed_at)) for row in session.execute(query)]


def verifiers(session: Session) -> list[Verifier]:
    """The same keys, to check signatures with."""
    return [read_verifier(key.public) for key in keys(session)]


def place(session: Session, at: int) -> Place:
    """The entry at a place of the log.

    Raises:
        Refused: `not_found`.
    """
    return _place(session, LOG_LEAF.c.place == at)


def place_of(session: Session, population_id: str, seq: int) -> Place:
    """The place of an entry of a population's chain.

    Raises:
        Refused: `not_found`, also while the entry is not yet integrated.
    """
    return _place(session, _of(population_id, seq))


def find(session: Session, population_id: str, seq: int) -> Place | None:
    """The place of an entry of a population's chain; None while it is not integrated."""
    return _find(session, _of(population_id, seq))


def inclusion(session: Session, entry: Place, at: int) -> Inclusion:
    """Prove that an entry is in the tree as it was with `at` leaves.

    Raises:
        Refused: `not_found` when that tree does not hold the entry, or never was.
    """
    absent = f"there is no tree of {at} entries that holds this one"
    if not entry.place < at:
        raise Refused("not_found", absent)
    ranges = merkle.inclusion_ranges(entry.place, at)
    whole = merkle.cover(0, at)
    found = _grown(session, at, [*merkle.needed(ranges), *whole], absent)
    path = tuple(merkle.proof(ranges, found))
    return Inclusion(entry, at, merkle.fold([found[peak] for peak in whole]), path)


def consistency(session: Session, first: int, second: int) -> Consistency:
    """Prove that the log only grew from `first` to `second` leaves.

    Raises:
        Refused: `not_found` when there never were such trees.
    """
    absent = f"there are no trees of {first} and then {second} entries"
    if not 0 < first <= second:
        raise Refused("not_found", absent)
    ranges = merkle.consistency_ranges(first, second)
    old, new = merkle.cover(0, first), merkle.cover(0, second)
    found = _grown(session, second, [*merkle.needed(ranges), *old, *new], absent)
    return Consistency(
        first,
        second,
        merkle.fold([found[peak] for peak in old]),
        merkle.fold([found[peak] for peak in new]),
        tuple(merkle.proof(ranges, found)),
    )


def _grown(
    session: Session, at: int, places: Iterable[merkle.Coordinates], absent: str
) -> dict[merkle.Coordinates, bytes]:
    """Nodes for a proof about the tree of `at` leaves, whose size is asked only where one lacks.

    Raises:
        Refused: `not_found` when there never was such a tree; `unavailable` when a node of it is
            missing.
    """
    if at > merkle.MAX_SIZE:
        raise Refused("not_found", absent)
    try:
        return nodes(session, places)
    except Refused:
        if at > size(session):
            raise Refused("not_found", absent) from None
        raise


def _of(population_id: str, seq: int) -> sa.ColumnElement[bool]:
    return sa.and_(LOG_LEAF.c.population_id == population_id, LOG_LEAF.c.seq == seq)


def _place(session: Session, wanted: sa.ColumnElement[bool]) -> Place:
    if (found := _find(session, wanted)) is None:
        raise Refused("not_found", NO_LEAF)
    return found


def _find(session: Session, wanted: sa.ColumnElement[bool]) -> Place | None:
    query = sa.select(LOG_LEAF, ENTRY.c.hash).join_from(LOG_LEAF, ENTRY).where(wanted)
    row = session.execute(query).one_or_none()
    return None if row is None else Place(row.place, row.population_id, row.seq, row.hash)
