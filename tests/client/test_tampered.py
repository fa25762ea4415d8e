"""The tampered ledgers: each damage is found, located and told apart from every other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privacy_gateway import checkpoint
from privacy_gateway.findings import KINDS
from privacy_gateway.logbook import Asked
from privacy_gateway.verify import Report, verify
from tests.support.tampered import CASES, Case, beside, damaged, same
from tests.support.tampering import FOLDER

IDS = [case.name for case in CASES]


def report_of(case: Case) -> Report:
    """What an auditor is told who has the case's files in hand."""
    name = case.base if case.damage is same else case.name
    growth = FOLDER / f"{case.consistency}.json"
    asked = Asked(
        keys=[checkpoint.read_verifier((FOLDER / f"{case.key}.txt").read_text())],
        older=(FOLDER / f"{case.older}.checkpoint").read_text() if case.older else None,
        consistency=json.loads(growth.read_bytes()) if case.consistency else None,
    )
    with (FOLDER / f"{name}.jsonl").open("rb") as lines:
        decisions = (FOLDER / f"{case.decisions}.jsonl").open("rb")
        with decisions:
            return verify(lines, asked=asked, decisions=decisions)


@pytest.mark.parametrize("base", ["honest", "part"])
@pytest.mark.parametrize("older", [None, "early"])
def test_the_honest_files_verify(base: str, older: str | None) -> None:
    case = Case("", "", same, "", 0, base=base, older=older, consistency="growth")
    report = report_of(case)
    assert report.problems == ()
    assert report.log is not None
    assert report.log.grown_from == (5 if older else None)
    assert report.decisions == (5 if base == "honest" else 3)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_each_damage_is_found_located_and_named(case: Case) -> None:
    report = report_of(case)
    assert not report.ok
    first = report.problems[0]
    assert (first.kind, first.line, first.population, first.seq, first.part) == (
        case.kind,
        case.line,
        case.population,
        case.seq,
        case.part,
    )
    if case.alone:
        assert len(report.problems) == 1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_committed_files_are_what_the_damages_make(case: Case) -> None:
    if case.damage is not same:
        assert (FOLDER / f"{case.name}.jsonl").read_bytes() == damaged(case)
    for name, data in beside().items():
        assert (FOLDER / name).read_bytes() == data


def test_every_kind_but_those_that_need_no_file_has_one() -> None:
    shown = {case.kind for case in CASES}
    # Shown elsewhere: what a chain without damage says about terms and rules, and about nothing.
    assert shown <= KINDS.keys()
    assert KINDS.keys() - shown == {"chain", "terms", "rule", "unsigned", "unproven"}


def test_the_index_names_every_file() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    for file in FOLDER.iterdir():
        assert f"`{file.name}`" in index or file.name == "README.md", file.name
    for case in CASES:
        assert f"`{case.kind}`" in index


def test_the_auditor_page_explains_every_kind() -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "auditor" / "damage.md"
    text = page.read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"| `{kind}` |" in text, kind
