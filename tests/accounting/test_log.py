"""The log on both databases: complete, gap-free, provable, signed, and held against its witness."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from accounting import ledger, log, log_keys, sequencer, witness
from accounting.tables import ENTRY, LOG_LEAF, LOG_NODE, LOG_TABLES
from kit.db import Database
from privacy_gateway import checkpoint, merkle
from privacy_gateway.checkpoint import Signer
from tests.accounting.support import NOW, charge, open_population, refusal_of, reserve, settle

ORIGIN = "privacy-gateway/test"


@pytest.fixture
def house(database: Database) -> Database:
    """Two populations with a few entries each."""
    with database.unit_of_work() as session:
        open_population(session, "pop_a")
        open_population(session, "pop_b", epsilon=30.0)
        reserve(session, "job_1", rounds=20)
        charge(session, "job_1", 1, 5)
        reserve(session, "job_2", rounds=3, population_id="pop_b")
        charge(session, "job_1", 6, 5)
        settle(session, "job_1")
    return database


def integrate(database: Database, limit: int = sequencer.BATCH) -> int:
    with database.unit_of_work() as session:
        return sequencer.integrate(session, limit=limit)


def sign(database: Database, *signers: Signer, minutes: int = 0) -> log.Signed | None:
    with database.unit_of_work() as session:
        return sequencer.sign(session, signers, now=NOW + timedelta(minutes=minutes))


def key(number: int = 1, name: str = ORIGIN) -> Signer:
    return checkpoint.new_signer(name, bytes([number]) * 32)


def note_entries(database: Database, count: int, population_id: str = "pop_a") -> None:
    for number in range(count):
        with database.unit_of_work() as session:
            ledger.note(
                session, population_id=population_id, reason=f"note {number}", facts={},
                actor_id="usr_owner", now=NOW,
            )  # fmt: skip


def seals(database: Database) -> list[bytes]:
    """Seals in the order of the log."""
    query = (
        sa.select(ENTRY.c.hash, ENTRY.c.seq, ENTRY.c.population_id)
        .join_from(LOG_LEAF, ENTRY)
        .order_by(LOG_LEAF.c.place)
    )
    with database.read() as session:
        rows = session.execute(query).all()
    for population in {row.population_id for row in rows}:
        mine = [row.seq for row in rows if row.population_id == population]
        assert mine == list(range(1, len(mine) + 1))
    return [bytes.fromhex(row.hash) for row in rows]


def root_of(leaves: list[bytes]) -> bytes:
    frontier = merkle.Frontier()
    frontier.extend(merkle.leaf_hash(leaf) for leaf in leaves)
    return frontier.root()


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_every_entry_enters_once_in_order_whatever_the_batches(house: Database, limit: int) -> None:
    total = 0
    while appended := integrate(house, limit):
        total += appended
    leaves = seals(house)
    with house.read() as session:
        assert not sequencer.waiting(session)
        assert log.size(session) == len(leaves) == total == 7
        assert log.frontier(session).root() == root_of(leaves)
        for size in range(1, 8):
            assert log.root(session, size) == root_of(leaves[:size])
        assert log.root(session, 0) == merkle.EMPTY_ROOT


def test_proofs_are_those_of_the_tree(house: Database) -> None:
    integrate(house)
    note_entries(house, 6, "pop_b")
    integrate(house)
    leaves = seals(house)
    with house.read() as session:
        for place, leaf in enumerate(leaves):
            entry = log.place(session, place)
            assert bytes.fromhex(entry.hash) == leaf
            assert log.place_of(session, entry.population_id, entry.seq) == entry
            for size in (place + 1, len(leaves)):
                proof = log.inclusion(session, entry, size)
                assert proof.root == root_of(leaves[:size])
                hashed = merkle.leaf_hash(leaf)
                assert merkle.verify_inclusion(hashed, place, size, proof.path, proof.root)
        for first in range(1, len(leaves) + 1):
            grown = log.consistency(session, first, len(leaves))
            assert merkle.verify_consistency(
                first, len(leaves), root_of(leaves[:first]), root_of(leaves), grown.path
            )
            assert (grown.first_root, grown.second_root) == (
                root_of(leaves[:first]),
                root_of(leaves),
            )
        entry = log.place(session, 9)
        for refused in (
            lambda: log.place(session, 13),
            lambda: log.place_of(session, "pop_a", 99),
            lambda: log.inclusion(session, entry, 9),
            lambda: log.inclusion(session, entry, 14),
            lambda: log.consistency(session, 0, 3),
            lambda: log.consistency(session, 3, 14),
        ):
            refusal = refusal_of(refused)
            assert refusal is not None
            assert refusal.code == "not_found"


def test_an_entry_that_commits_late_is_not_passed_over(house: Database) -> None:
    if house.is_sqlite:
        pytest.skip("SQLite has one writer: ids become visible in order")
    integrate(house)
    written, released = threading.Event(), threading.Event()

    def slow() -> None:
        with house.unit_of_work() as session:
            ledger.note(
                session, population_id="pop_a", reason="slow", facts={}, actor_id="u", now=NOW
            )
            written.set()
            assert released.wait(30)

    thread = threading.Thread(target=slow)
    thread.start()
    assert written.wait(30)
    note_entries(house, 2, "pop_b")
    assert integrate(house) == 2
    released.set()
    thread.join()
    assert integrate(house) == 1
    with house.read() as session:
        rows = session.execute(
            sa.select(ENTRY.c.id).join_from(LOG_LEAF, ENTRY).order_by(LOG_LEAF.c.place)
        )
        ids = list(rows.scalars())
    assert ids[-1] < ids[-2]
    assert len(seals(house)) == 10


def test_two_sequencers_at_once_give_every_place_once(house: Database) -> None:
    note_entries(house, 20)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while integrate(house, 3):
                pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    leaves = seals(house)
    assert len(leaves) == 27
    with house.read() as session:
        assert log.root(session, 27) == root_of(leaves)


def test_a_checkpoint_is_signed_once_and_again_when_log_or_keys_change(house: Database) -> None:
    assert sign(house, key()) is None
    integrate(house)
    signed = sign(house, key())
    assert signed is not None
    assert (signed.origin, signed.size) == (ORIGIN, 7)
    head, by = checkpoint.verify(signed.note, [key().verifier])
    assert (head.origin, head.size, head.root.hex()) == (ORIGIN, 7, signed.root)
    assert sign(house, key()) is None

    both = sign(house, key(1), key(2), minutes=1)
    assert both is not None
    assert len(checkpoint.verify(both.note, [key(2).verifier, *by])[1]) == 2
    note_entries(house, 1)
    integrate(house)
    rotated = sign(house, key(2), minutes=2)
    assert rotated is not None
    assert rotated.size == 8
    with house.read() as session:
        assert log.latest(session) == rotated
        assert log.verifiers(session) == [key(1).verifier, key(2).verifier]
        assert not sequencer.unsigned(session, [key(2)])
        assert sequencer.unsigned(session, [key(1)])


def test_keys_of_another_log_sign_nothing(house: Database) -> None:
    integrate(house)
    two_names = [key(1), key(2, "another")]
    for keys, reason in (
        (two_names, "log_damaged"),
        ([key(1)], None),
        ([key(1, "another")], "log_damaged"),
    ):
        refusal = refusal_of(lambda keys=keys: sign(house, *keys))  # type: ignore[misc]
        assert (refusal.facts["reason"] if refusal else None) == reason


def tampered(database: Database, statement: sa.Update | sa.Delete) -> None:
    """What an operator with the database's password can do."""
    with database.engine.begin() as connection:
        for verb in ("update", "delete"):
            if database.is_sqlite:
                connection.exec_driver_sql(f"DROP TRIGGER log_node_no_{verb}")
        if not database.is_sqlite:
            connection.exec_driver_sql("DROP TRIGGER log_node_no_change ON log_node")
        connection.execute(statement)


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_tree_is_not_signed(house: Database, missing: bool) -> None:
    integrate(house)
    sign(house, key())
    peak = (LOG_NODE.c.level == 2, LOG_NODE.c.place == 0)
    statement = (
        sa.delete(LOG_NODE).where(*peak)
        if missing
        else sa.update(LOG_NODE).where(*peak).values(hash=b"x" * 32)
    )
    tampered(house, statement)
    note_entries(house, 1)
    refusal = refusal_of(lambda: (integrate(house), sign(house, key())))
    assert refusal is not None
    assert (refusal.code, refusal.facts["reason"]) == ("unavailable", "log_damaged")


@pytest.mark.parametrize("table", LOG_TABLES)
@pytest.mark.parametrize("verb", ["UPDATE {} SET {}", "DELETE FROM {}"])
def test_the_log_is_append_only(house: Database, table: str, verb: str) -> None:
    integrate(house)
    sign(house, key())
    column = "first_signed_at = 1" if table == "log_key" else "{} = {}".format(
        *(("size", "size") if table == "log_checkpoint" else ("place", "place"))
    )  # fmt: skip
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        house.engine.begin() as connection,
    ):
        connection.exec_driver_sql(verb.format(table, column))


def witnessed(database: Database, path: Path, *keys: Signer) -> str:
    """The log integrated, signed and witnessed; answers the note."""
    integrate(database)
    sign(database, *(keys or (key(),)))
    with database.read() as session:
        newest = log.latest(session)
    assert newest is not None
    witness.write(path, newest.note)
    return newest.note


def state(database: Database, path: Path) -> str:
    """What `check` says, or the reason it refuses for."""
    with database.read() as session:
        refusal = refusal_of(lambda: witness.check(session, path))
        return refusal.facts["reason"] if refusal else witness.check(session, path)


def test_the_witness_follows_and_never_goes_back(house: Database, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "checkpoint"
    assert state(house, path) == "none"
    old = witnessed(house, path)
    assert state(house, path) == "ok"
    note_entries(house, 3)
    assert state(house, path) == "ok"
    new = witnessed(house, path)
    assert path.read_text() == new
    assert not witness.write(path, old)
    assert path.read_text() == new
    assert state(house, path) == "ok"
    path.unlink()
    assert state(house, path) == "absent"


def test_an_old_or_rewritten_database_is_told_from_a_broken_witness(
    house: Database, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    note = witnessed(house, path)
    size = checkpoint.parse(note).checkpoint.size

    def with_checkpoint(at: int, root: bytes, signer: Signer) -> str:
        path.write_text(checkpoint.seal(checkpoint.Checkpoint(ORIGIN, at, root), [signer]))
        return state(house, path)

    assert with_checkpoint(size + 1, b"r" * 32, key()) == "rolled_back"
    assert with_checkpoint(size + 1, b"r" * 32, key(9)) == "rolled_back"
    assert with_checkpoint(size, b"r" * 32, key()) == "witness_differs"
    assert with_checkpoint(size - 1, b"r" * 32, key()) == "witness_differs"
    assert with_checkpoint(size, checkpoint.parse(note).checkpoint.root, key(9)) == (
        "witness_differs"
    )
    path.write_text(note.replace("\n7\n", "\n6\n"))
    assert state(house, path) == "witness_damaged"
    path.write_text(note[:-20])
    assert state(house, path) == "witness_damaged"
    path.write_bytes(b"\xff\xfe")
    assert state(house, path) == "witness_damaged"


def test_keys_are_private_files_and_rotate_by_adding_one(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert log_keys.signers(folder) == []
    origin = log_keys.new_origin()
    (first,) = log_keys.first(folder, origin)
    assert log_keys.first(folder, "another") == [first]
    assert (folder / "log-ed25519").stat().st_mode & 0o777 == 0o600
    assert log_keys.add(folder, origin).name == "log-ed25519.2"
    assert log_keys.add(folder, origin, another=False).name == "log-ed25519"
    assert [signer.name for signer in log_keys.signers(folder)] == [origin] * 2
    assert len(list(folder.iterdir())) == 2

    (folder / "log-ed25519.2").write_text("no key")
    refusal = refusal_of(lambda: log_keys.signers(folder))
    assert refusal is not None
    assert refusal.facts["reason"] == "key_damaged"
    (folder / "log-ed25519.2").chmod(0o644)
    refusal = refusal_of(lambda: log_keys.signers(folder))
    assert refusal is not None
    assert refusal.facts["reason"] == "key_exposed"
