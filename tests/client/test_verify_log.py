"""The log in an export: every forgery, loss and old backup is found and told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import ledger, sequencer
from kit.db import Database
from privacy_gateway import canonical, chain, checkpoint, merkle
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import Report, verify
from tests.accounting.support import NOW, charge, export, open_population, reserve, settle

KEY = checkpoint.new_signer("privacy-gateway/test", b"k" * 32)
OTHER = checkpoint.new_signer("privacy-gateway/test", b"o" * 32)
TRUSTED = Asked([KEY.verifier])

Exports = dict[str, list[bytes]]


def signed(database: Database) -> None:
    with database.unit_of_work() as session:
        sequencer.integrate(session)
        sequencer.sign(session, [KEY], now=NOW)


def note_of(lines: list[bytes]) -> str:
    note = json.loads(lines[-1])["checkpoint"]
    assert isinstance(note, str)
    return note


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    """An early export, a later one, one of pop_a alone, and one with an entry not yet signed."""
    folder: Path = tmp_path_factory.mktemp("log")
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    database.create_all()
    found: Exports = {}
    with database.unit_of_work() as session:
        open_population(session, "pop_a")
        open_population(session, "pop_b")
        reserve(session, "job_1", rounds=20)
        reserve(session, "job_2", rounds=20, population_id="pop_b")
        charge(session, "job_1", 1, 5)
    signed(database)
    found["early"] = export(database)
    with database.unit_of_work() as session:
        charge(session, "job_2", 1, 5)
        charge(session, "job_1", 6, 5)
        settle(session, "job_1")
        settle(session, "job_2")
    signed(database)
    found["late"] = export(database)
    with database.read() as session:
        found["part"] = list(ledger.export_lines(session, populations=["pop_a"]))
    with database.unit_of_work() as session:
        ledger.note(
            session, population_id="pop_b", reason="new", facts={}, actor_id="usr_owner", now=NOW
        )
    found["ahead"] = export(database)
    yield found
    database.close()


def kinds(report: Report) -> list[str]:
    return [problem.kind for problem in report.problems]


def test_an_honest_log_is_recomputed_and_its_signature_checked(exports: Exports) -> None:
    lines = exports["late"]
    report = verify(lines, asked=TRUSTED)
    assert report.ok
    assert report.log is not None
    head = checkpoint.parse(note_of(lines)).checkpoint
    assert (report.log.size, report.log.root) == (9, head.root.hex())
    assert (report.log.complete, report.log.beyond) == (True, 0)
    assert report.log.signed_by == (str(KEY.verifier),)
    without = verify(lines)
    assert without.ok
    assert without.log == replace(report.log, signed_by=())


def test_entries_after_the_checkpoint_are_counted(exports: Exports) -> None:
    report = verify(exports["ahead"], asked=TRUSTED)
    assert report.ok
    assert report.log is not None
    assert (report.log.size, report.log.beyond) == (9, 1)


def test_a_part_is_proven_by_its_heads(exports: Exports) -> None:
    report = verify(exports["part"], asked=TRUSTED)
    assert report.ok
    assert report.log is not None
    assert (report.log.complete, report.log.beyond, report.log.size) == (False, 0, 9)


def test_the_log_grows_from_the_older_checkpoint(exports: Exports) -> None:
    older = note_of(exports["early"])
    report = verify(exports["late"], asked=replace(TRUSTED, older=older))
    assert report.ok
    assert report.log is not None
    assert report.log.grown_from == 5
    same = verify(exports["late"], asked=replace(TRUSTED, older=note_of(exports["late"])))
    assert same.log is not None
    assert (same.ok, same.log.grown_from) == (True, 9)
    part = verify(exports["part"], asked=replace(TRUSTED, older=older))
    assert kinds(part) == ["unproven"]
    equal = verify(exports["part"], asked=replace(TRUSTED, older=note_of(exports["late"])))
    assert equal.ok


def test_an_old_backup_is_a_rollback(exports: Exports) -> None:
    older = note_of(exports["late"])
    report = verify(exports["early"], asked=replace(TRUSTED, older=older))
    assert kinds(report) == ["rollback"]
    assert report.problems[0].line == len(exports["early"])
    assert "9 entries, this log has 5" in report.problems[0].detail


def test_another_history_is_told_from_an_old_one(exports: Exports) -> None:
    rewritten = checkpoint.Checkpoint(KEY.name, 5, b"r" * 32)
    older = checkpoint.seal(rewritten, [KEY])
    report = verify(exports["late"], asked=replace(TRUSTED, older=older))
    assert kinds(report) == ["rewritten"]
    stranger = checkpoint.Checkpoint("privacy-gateway/else", 5, b"r" * 32)
    older = checkpoint.seal(stranger, [checkpoint.new_signer("privacy-gateway/else")])
    assert kinds(verify(exports["late"], asked=Asked(older=older))) == ["rewritten"]
    assert kinds(verify(exports["late"], asked=replace(TRUSTED, older=older))) == ["key"]
    forged = note_of(exports["early"]).replace("\n5\n", "\n4\n")
    assert kinds(verify(exports["late"], asked=replace(TRUSTED, older=forged))) == ["signature"]


def test_a_forged_signature_is_told_from_another_key(exports: Exports) -> None:
    lines = exports["late"]
    assert kinds(verify(lines, asked=Asked([OTHER.verifier]))) == ["key"]
    note = note_of(lines)
    head = checkpoint.parse(note).checkpoint
    forged = checkpoint.seal(replace(head, root=b"r" * 32), [KEY]).split("\n\n")[1]
    swapped = f"{head.body()}\n{forged}"
    assert kinds(verify(with_note(lines, swapped), asked=TRUSTED)) == ["signature"]
    assert kinds(verify(with_note(lines, "no note"), asked=TRUSTED)) == ["signature"]
    stranger = checkpoint.seal(replace(head, root=b"r" * 32), [OTHER])
    assert kinds(verify(with_note(lines, stranger))) == ["tree"]


def with_note(lines: list[bytes], note: str) -> list[bytes]:
    return [*lines[:-1], canonical.dumps({"checkpoint": note})]


def test_a_checkpoint_cut_off_or_never_there(exports: Exports) -> None:
    lines = exports["late"]
    for length in range(1, len(lines)):
        assert set(kinds(verify(lines[:length], asked=TRUSTED))) == {"truncated"}
    header = json.loads(lines[0])
    del header["log"]
    bare = [canonical.dumps(header), *lines[1:-2]]
    assert verify(bare).ok
    assert kinds(verify(bare, asked=TRUSTED)) == ["unsigned"]


def changed(lines: list[bytes], place: int, **members: Any) -> list[bytes]:
    """The export with members of an order or proof line changed."""
    ((kind, body),) = json.loads(lines[place]).items()
    line = canonical.dumps({kind: body | members})
    return [*lines[:place], line, *lines[place:][1:]]


def test_another_order_does_not_lead_to_the_root(exports: Exports) -> None:
    lines = exports["late"]
    at = len(lines) - 2
    order = json.loads(lines[at])["order"]
    runs = [1, 1, 0, 1, *order["runs"][4:]]
    for members in ({"runs": runs}, {"root": "0" * 64}, {"size": 8}, {"from": 1}):
        report = verify(changed(lines, at, **members), asked=TRUSTED)
        assert [(problem.line, problem.kind) for problem in report.problems] == [(at + 1, "tree")]
    for runs in ([0, 99], [7, 1], order["runs"][:-2]):
        report = verify(changed(lines, at, runs=runs), asked=TRUSTED)
        assert kinds(report) == ["tree"]
    for members in ({"runs": [0]}, {"root": "x"}, {"size": "9"}, {"more": 1}):
        assert "altered" in kinds(verify(changed(lines, at, **members), asked=TRUSTED))


def test_an_entry_resealed_by_the_operator_contradicts_the_checkpoint(exports: Exports) -> None:
    """A whole consistent history, rewritten after the checkpoint was signed."""
    lines, result = exports["late"], []
    prev = {"pop_a": chain.GENESIS, "pop_b": chain.GENESIS}
    for line in lines[1:-4]:
        cut = chain.read_line(line)
        assert cut is not None
        leaf = json.loads(cut.leaf) | {"at": json.loads(cut.leaf)["at"] + 1}
        raw, name = chain.leaf_bytes(leaf), leaf["population"]
        sealed = chain.seal(prev[name], raw)
        result.append(chain.write_line(sealed, raw, prev[name]))
        prev[name] = sealed
    heads = []
    for line in lines[-4:-2]:
        head = json.loads(line)["head"]
        heads.append(canonical.dumps({"head": head | {"hash": prev[head["population"]]}}))
    report = verify([lines[0], *result, *heads, *lines[-2:]], asked=TRUSTED)
    assert [(problem.line, problem.kind) for problem in report.problems] == [
        (len(lines) - 1, "tree")
    ]


def test_a_forged_proof_is_found_where_it_is(exports: Exports) -> None:
    lines = exports["part"]
    at = len(lines) - 2
    proof = json.loads(lines[at])["proof"]
    path = [*proof["path"]]
    path[0] = merkle.leaf_hash(b"forged").hex()
    for members in (
        {"path": path},
        {"path": path[1:]},
        {"index": proof["index"] - 1},
        {"size": proof["size"] - 1},
        {"seq": proof["seq"] - 1},
        {"seq": 99},
        {"population": "pop_z"},
    ):
        report = verify(changed(lines, at, **members), asked=TRUSTED)
        assert [(problem.line, problem.kind) for problem in report.problems] == [(at + 1, "proof")]
    dropped = [*lines[:at], lines[-1]]
    assert kinds(verify(dropped, asked=TRUSTED)) == ["truncated"]


def test_damage_to_entries_is_not_reported_twice(exports: Exports) -> None:
    lines = exports["late"]
    for place in range(1, len(lines) - 4):
        report = verify(lines[:place] + lines[place + 1 :], asked=TRUSTED)
        assert len(report.problems) == 1
        assert kinds(report)[0] in {"dropped", "truncated"}


@given(data=st.data())
def test_one_flipped_bit_of_the_log_is_found(exports: Exports, data: st.DataObject) -> None:
    lines = exports[data.draw(st.sampled_from(["late", "part"]))]
    place = data.draw(st.sampled_from([0, len(lines) - 2, len(lines) - 1]))
    damaged = bytearray(lines[place])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    report = verify([*lines[:place], bytes(damaged), *lines[place + 1 :]], asked=TRUSTED)
    assert not report.ok
