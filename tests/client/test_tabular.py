"""CSV and Parquet lead back to the export's own bytes, and an edited cell is found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from accounting import ledger, sequencer
from kit.db import Database
from privacy_gateway import checkpoint, rdp, tabular
from privacy_gateway.errors import Refused
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import verify
from tests.accounting.support import NOW, charge, export, open_population, reserve, settle

KEY = checkpoint.new_signer("privacy-gateway/test", b"k" * 32)
FORMULA = "=HYPERLINK(1)"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """Two populations, a charged job, a grant, names that are awkward in a table, a checkpoint."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('tabular') / 'ledger.db'}")
    database.create_all()
    with database.unit_of_work() as session:
        open_population(session, "pop_a", name='said "yes",\nthen no — ärger')
        open_population(session, "pop_b")
        reserve(session, "job_1", rounds=20, researcher_id=FORMULA)
        charge(session, "job_1", 1, 5)
        settle(session, "job_1")
        ledger.grant(
            session, population_id="pop_b", epsilon=1, reason="'=1+1", actor_id="'x", now=NOW
        )
        ledger.freeze(session, population_id="pop_b", reason="-", actor_id="", now=NOW)
        sequencer.integrate(session)
        sequencer.sign(session, [KEY], now=NOW)
    yield export(database)
    database.close()


def written(lines: list[bytes], form: str, folder: Path) -> Path:
    path = folder / f"ledger.{form}"
    path.write_bytes(b"".join(tabular.WRITERS[form](lines)))
    return path


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_leads_back_to_the_same_bytes_and_verifies(
    lines: list[bytes], form: str, tmp_path: Path
) -> None:
    path = written(lines, form, tmp_path)
    with tabular.opened(path) as found:
        assert list(found) == lines
    with tabular.opened(path) as found:
        report = verify(found, asked=Asked([KEY.verifier]))
    assert report.ok
    assert report.log is not None
    assert report.log.signed_by == (str(KEY.verifier),)


def test_parquet_holds_exact_integers_to_recompute_from(lines: list[bytes], tmp_path: Path) -> None:
    table = pq.read_table(written(lines, "parquet", tmp_path)).to_pylist()
    charged = [row for row in table if row["kind"] == "charge"]
    assert len(charged) == 1
    (row,) = charged
    assert row["cost"] == [part * row["rounds"] for part in row["per_round"]]
    assert len(row["cost"]) == len(rdp.ORDERS)
    assert row["charged"] == row["cost"]
    assert json.loads(row["mechanism"])["kind"] == "poisson_gaussian"
    assert (row["job"], row["at"]) == ("job_1", json.loads(row["leaf"])["at"])
    assert [row["grant_epsilon_nano"] for row in table if row["kind"] == "grant"] == [10**9]
    assert [row["frozen"] for row in table if row["population"] == "pop_b"][:3] == [
        False, False, True,
    ]  # fmt: skip


def test_no_free_text_of_the_csv_runs_as_a_formula(lines: list[bytes], tmp_path: Path) -> None:
    text = written(lines, "csv", tmp_path).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["researcher"] for row in rows if row["job"]} == {f"'{FORMULA}"}
    for row in rows:
        for name, cell in row.items():
            assert not cell.startswith(("=", "+", "@")), name


@pytest.mark.parametrize(
    ("column", "value"),
    [("cost", "[1]"), ("rounds", "4"), ("researcher", "usr_else"), ("frozen", "true"),
     ("at", "1e3"), ("record", "head"), ("hash", "f" * 64), ("leaf", "{}")],
)  # fmt: skip
def test_an_edited_cell_is_found_where_it_is(
    lines: list[bytes], tmp_path: Path, column: str, value: str
) -> None:
    path = written(lines, "csv", tmp_path)
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    at = next(place for place, row in enumerate(rows) if row[3] == "charge")
    rows[at][tabular.NAMES.index(column)] = value
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    with tabular.opened(path) as found:
        report = verify(found)
    assert [(problem.kind, problem.line, problem.seq) for problem in report.problems] == [
        ("altered", at, 3)
    ]


def test_a_flipped_byte_of_parquet_never_verifies(lines: list[bytes], tmp_path: Path) -> None:
    path = written(lines, "parquet", tmp_path)
    whole = path.read_bytes()
    for place in range(200, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            with tabular.opened(path) as found:
                same = list(found) == lines
        except Refused as refusal:
            assert refusal.errors[0].field == "export"
        else:
            # Metadata that nothing is read from may differ; no line may.
            assert same or not _verified(path)


def _verified(path: Path) -> bool:
    with tabular.opened(path) as found:
        return verify(found).ok


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    for name, content in (("a.csv", b"a,b\n1,2\n"), ("a.parquet", b"PAR1"), ("b.csv", b"")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(Refused) as caught, tabular.opened(path) as found:
            list(found)
        assert [error.field for error in caught.value.errors] == ["export"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_table_is_written_while_it_is_read(lines: list[bytes], form: str) -> None:
    taken = 0
    entry = next(line for line in lines if b'"kind":"charge"' in line)

    def many() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(3 * tabular.GROUP_ROWS):
            taken += 1
            yield entry

    most = 0
    before = 0
    for block in tabular.WRITERS[form](many()):
        most, before = max(most, taken - before), taken
        assert block or taken == 3 * tabular.GROUP_ROWS
    assert 0 < most <= tabular.GROUP_ROWS
