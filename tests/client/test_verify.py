"""Damage to an export is found and located; forged histories are recomputed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import ledger
from accounting.curve import price
from accounting.mechanism import Mechanism
from kit.db import Database
from privacy_gateway import canonical, chain
from privacy_gateway.verify import Report, verify
from tests.accounting.support import (
    NOW,
    charge,
    export,
    job_price,
    open_population,
    reserve,
    settle,
)
from tests.client.forgeries import FORGERIES, Leaf


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """Two populations with every kind of entry."""
    folder: Path = tmp_path_factory.mktemp("export")
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    database.create_all()
    owner: dict[str, Any] = {"actor_id": "usr_owner", "now": NOW}
    with database.unit_of_work() as session:
        open_population(session, "pop_a")
        open_population(session, "pop_b", epsilon=30.0)
        reserve(session, "job_1", rounds=20)
        charge(session, "job_1", 1, 5)
        charge(session, "job_1", 1, 5, attempt=2)
        charge(session, "job_1", 6, 5)
        settle(session, "job_1")
        ledger.grant(session, population_id="pop_a", epsilon=0.5, reason="more", **owner)
        ledger.freeze(session, population_id="pop_a", reason="why", **owner)
        ledger.unfreeze(session, population_id="pop_a", reason="why", **owner)
        ledger.set_quota(
            session, population_id="pop_a", researcher_id="usr_r", epsilon=4.0, **owner
        )
        reserve(session, "job_2", rounds=3)
        ledger.note(session, population_id="pop_a", reason="audit", facts={}, **owner)
        for number, mechanism in enumerate(
            (
                Mechanism("tree_gaussian", 9.0, steps=100),
                Mechanism("fixed_size_gaussian", 6.0, 1000, 10),
                Mechanism("gaussian", 30.0),
                Mechanism("adaptive_clipping_gaussian", 1.0, 1000, 50, clip_count_noise=2.5),
            )
        ):
            reserve(
                session, f"job_b{number}", population_id="pop_b", rounds=2, cost=price(mechanism)
            )
        charge(session, "job_b0", 1, 2)
    yield export(database)
    database.close()


def found(report: Report) -> list[tuple[int, str]]:
    return [(problem.line, problem.kind) for problem in report.problems]


def test_an_honest_export_is_confirmed(lines: list[bytes]) -> None:
    report = verify(line + b"\n" for line in lines)
    assert report.ok
    assert report.problems == ()
    assert report.entries == len(lines) - 3
    assert report.mechanisms == 5
    summary = report.populations["pop_a"]
    assert (summary.rounds_charged, summary.jobs, summary.frozen) == (15, 2, False)
    assert 0 < summary.epsilon_spent < summary.epsilon_committed < summary.epsilon == 8.5


def test_every_flip_in_header_and_heads_is_found_where_it_is(lines: list[bytes]) -> None:
    for place in (0, len(lines) - 2, len(lines) - 1):
        for offset in range(len(lines[place])):
            damaged = bytearray(lines[place])
            damaged[offset] ^= 1
            report = verify([*lines[:place], bytes(damaged), *lines[place + 1 :]])
            where = {problem.line for problem in report.problems}
            # A header that announces another number of chains is only known wrong at the end.
            assert place + 1 in where or (place == 0 and len(lines) in where)


@given(data=st.data())
def test_one_flipped_bit_is_found_where_it_is(lines: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(lines) - 1))
    offset = data.draw(st.integers(0, len(lines[place]) - 1))
    damaged = bytearray(lines[place])
    damaged[offset] ^= 1 << data.draw(st.integers(0, 7))
    report = verify([*lines[:place], bytes(damaged), *lines[place + 1 :]])
    assert not report.ok
    if 0 < place < len(lines) - 2:
        assert found(report) == [(place + 1, "altered")]


def entry_places(lines: list[bytes]) -> range:
    return range(1, len(lines) - 2)


def seq_of(line: bytes) -> tuple[str, int]:
    cut = chain.read_line(line)
    assert cut is not None
    leaf = json.loads(cut.leaf)
    return leaf["population"], leaf["seq"]


def last_of_its_chain(lines: list[bytes], place: int) -> bool:
    return place + 1 == len(lines) - 2 or seq_of(lines[place + 1])[1] == 1


def test_every_dropped_row_is_named(lines: list[bytes]) -> None:
    for place in entry_places(lines):
        population, seq = seq_of(lines[place])
        report = verify(lines[:place] + lines[place + 1 :])
        problem = report.problems[0]
        last = last_of_its_chain(lines, place)
        assert (problem.kind, problem.population, problem.seq) == (
            "truncated" if last else "dropped",
            population,
            seq,
        )
        assert len(report.problems) == 1
        if not last:
            assert problem.line == place + 1


def test_every_swap_of_neighbours_is_named(lines: list[bytes]) -> None:
    for place in entry_places(lines)[:-1]:
        if last_of_its_chain(lines, place):
            continue
        swapped = [*lines]
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        report = verify(swapped)
        assert found(report) == [(place + 2, "reordered")]
        assert (report.problems[0].population, report.problems[0].seq) == seq_of(lines[place])


def test_every_repeated_row_is_named(lines: list[bytes]) -> None:
    for place in entry_places(lines):
        report = verify([*lines[: place + 1], lines[place], *lines[place + 1 :]])
        assert found(report) == [(place + 2, "duplicated")]


def test_a_truncated_file_is_told_from_a_short_one(lines: list[bytes]) -> None:
    for length in range(1, len(lines)):
        report = verify(lines[:length])
        assert not report.ok
        assert {problem.kind for problem in report.problems} == {"truncated"}
    assert not verify([]).ok or verify([]).entries == 0


def test_a_tail_cut_before_the_heads_says_which_rows_are_gone(lines: list[bytes]) -> None:
    last = max(place for place in entry_places(lines) if seq_of(lines[place])[0] == "pop_a")
    report = verify(lines[: last - 1] + lines[last + 1 :])
    problem = report.problems[0]
    assert (problem.kind, problem.population, problem.seq) == (
        "truncated",
        "pop_a",
        seq_of(lines[last - 1])[1],
    )
    assert len(report.problems) == 1


def test_a_head_written_down_elsewhere_uncovers_a_rewritten_or_rolled_back_history(
    lines: list[bytes],
) -> None:
    summary = verify(lines).populations["pop_a"]
    seq, sealed = summary.head_seq, summary.head_hash
    assert verify(lines, expect_heads=[("pop_a", seq, sealed)]).ok
    other = verify(lines, expect_heads=[("pop_a", seq, "0" * 64)])
    assert [problem.kind for problem in other.problems] == ["head"]
    newer = verify(lines, expect_heads=[("pop_a", seq + 1, sealed)])
    assert [problem.kind for problem in newer.problems] == ["truncated"]
    absent = verify(lines, expect_heads=[("pop_z", 1, sealed)])
    assert [problem.kind for problem in absent.problems] == ["truncated"]


def test_every_head_of_a_population_is_held_against_its_history(lines: list[bytes]) -> None:
    summary = verify(lines).populations["pop_a"]
    right, wrong = (
        ("pop_a", summary.head_seq, summary.head_hash),
        ("pop_a", summary.head_seq, "0" * 64),
    )
    later = ("pop_a", summary.head_seq + 7, "1" * 64)
    assert verify(lines, expect_heads=[right, right]).ok
    for heads in ([right, wrong], [wrong, right]):
        assert [problem.kind for problem in verify(lines, expect_heads=heads).problems] == ["head"]
    for heads in ([right, later], [later, right]):
        problems = verify(lines, expect_heads=heads).problems
        assert [problem.kind for problem in problems] == ["truncated"]


def forged(lines: list[bytes], change: Callable[[Leaf], None], seq: int) -> Report:
    """Verify after a dishonest operator changed one entry of pop_a and resealed everything."""
    result, prev = [lines[0]], chain.GENESIS
    heads = lines[-2:]
    for line in lines[1:-2]:
        cut = chain.read_line(line)
        assert cut is not None
        leaf = json.loads(cut.leaf)
        if leaf["population"] != "pop_a":
            result.append(line)
            continue
        if leaf["seq"] == seq:
            change(leaf)
        raw = chain.leaf_bytes(leaf)
        sealed = chain.seal(prev, raw)
        result.append(chain.write_line(sealed, raw, prev))
        prev = sealed
    head = {"population": "pop_a", "seq": json.loads(heads[0])["head"]["seq"], "hash": prev}
    return verify([*result, canonical.dumps({"head": head}), heads[1]])


@pytest.mark.parametrize(
    ("seq", "change", "kind"),
    FORGERIES,
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_resealed_forgery_is_recomputed(
    lines: list[bytes], seq: int, change: Callable[[Leaf], None], kind: str
) -> None:
    report = forged(lines, change, seq)
    assert not report.ok
    problem = report.problems[0]
    assert (problem.seq, problem.kind) == (seq, kind)
    assert problem.line == seq + 1


def test_an_overspent_ledger_is_seen_at_the_entry_that_overspent(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    database.create_all()
    with database.unit_of_work() as session:
        open_population(session, "pop_a", epsilon=8.0)
        for number in range(3):
            reserve(session, f"job_{number}", rounds=3000)
    honest = export(database)
    database.close()

    def poorer(leaf: Leaf) -> None:
        leaf["terms"]["epsilon_nano"] = 5_000_000_000

    result, prev = [honest[0]], chain.GENESIS
    for line in honest[1:-1]:
        cut = chain.read_line(line)
        assert cut is not None
        leaf = json.loads(cut.leaf)
        if leaf["seq"] == 1:
            poorer(leaf)
        leaf["balance"]["epsilon_nano"] = 5_000_000_000
        raw = chain.leaf_bytes(leaf)
        sealed = chain.seal(prev, raw)
        result.append(chain.write_line(sealed, raw, prev))
        prev = sealed
    head = {"population": "pop_a", "seq": 4, "hash": prev}
    report = verify([*result, canonical.dumps({"head": head})])
    assert [problem.kind for problem in report.problems] == ["filter", "filter"]
    assert [problem.seq for problem in report.problems] == [3, 4]


def test_a_line_may_not_say_the_same_thing_in_other_bytes(lines: list[bytes]) -> None:
    cut = chain.read_line(lines[1])
    assert cut is not None
    for old, new, kind in (
        (b":", b": ", "encoding"),
        (b'"pop_a"', b'"\\u0070op_a"', "encoding"),
        (b"8000000000", b"8e9", "number"),
        (b"8000000000", b"NaN", "number"),
        (b"8000000000", b"-0", "number"),
        (b'{"actor"', b'{"actor":"usr_x","actor"', "duplicate_key"),
    ):
        leaf = cut.leaf.replace(old, new, 1)
        sealed = chain.seal(cut.prev, leaf)
        report = verify([lines[0], chain.write_line(sealed, leaf, cut.prev), *lines[2:]])
        assert found(report)[0] == (2, kind)


def test_a_price_of_a_job_is_recomputed_once(lines: list[bytes]) -> None:
    assert job_price().mechanism_digest in b"".join(lines).decode()
    assert verify(lines).mechanisms == 5
