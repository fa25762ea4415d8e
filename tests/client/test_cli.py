"""The command line: the whole way of owner, researcher and auditor, and every way to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

from privacy_gateway.cli import commands
from privacy_gateway.cli.output import EXITS
from tests.client.conftest import CLIENTS, POLICY, House, Run, manifest_of, write_npz
from tests.support.tampering import FOLDER as TAMPERED


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_an_owner_opens_registers_and_publishes(
    run: Run, as_role: Callable[[str], None], tmp_path: Path
) -> None:
    as_role("owner")
    opened = run(
        *["population", "create", "--name", "people", "--clients", CLIENTS, "--epsilon", 8],
        *["--delta", "1e-5", "--format", "json"],
    ).json
    manifest = write(tmp_path / "manifest.json", manifest_of(opened["id"]))
    file = write_npz(tmp_path / "digits.npz")
    dataset = run("dataset", "register", manifest, file, "--format", "json").json
    assert dataset["clients"] == CLIENTS
    assert run("policy", "check", dataset["id"], POLICY.parent).code == 0
    tested = run("policy", "test", dataset["id"], POLICY, "--format", "json")
    assert tested.code == 0
    assert all(result["passed"] for result in tested.json)
    active = run("policy", "publish", dataset["id"], POLICY, "--format", "json").json
    assert active["state"] == "active"
    assert run("policy", "list", dataset["id"], "--format", "json").json[-1]["state"] == "active"
    assert dataset["id"] in run("dataset", "list").out
    made = tmp_path / "mock.npz"
    assert run("dataset", "mock", dataset["id"], "--output", made, "--clients", "3").code == 0
    assert made.read_bytes()[:2] == b"PK"
    granted = run("population", "grant", opened["id"], "--epsilon", 1, "--reason", "more")
    assert granted.code == 0
    shown = run("population", "show", opened["id"], "--format", "json").json
    assert shown["epsilon"] == 9
    assert run("population", "freeze", opened["id"], "--reason", "stop").code == 0
    assert run("population", "list", "--format", "json").json[0]["frozen"] is True


def test_a_bad_policy_is_refused_with_its_findings(
    run: Run, as_role: Callable[[str], None], house: House, tmp_path: Path
) -> None:
    as_role("owner")
    bad = write(tmp_path / "bad.rego", "package bad\n\ndecision := http.send({})\n")
    checked = run("policy", "check", house.dataset.id, bad)
    assert checked.code == 3
    assert "http.send" in checked.out
    assert "next:" in checked.err
    assert run("policy", "publish", house.dataset.id, bad).code == 3
    assert run("policy", "test", house.dataset.id, bad).code == 3


def test_a_researcher_prices_adopts_and_submits(
    run: Run, as_role: Callable[[str], None], house: House, tmp_path: Path
) -> None:
    as_role("researcher")
    greedy = write(tmp_path / "greedy.json", house.job(rounds=200, noise_multiplier=0.5))
    quoted = run("quote", greedy)
    assert quoted.code == 3
    assert "counter-offer" in quoted.out
    assert "--adopt" in quoted.err
    refused = run("submit", greedy)
    assert refused.code == 3
    assert "counter offer" in refused.err
    assert run("jobs", "list", "--format", "json").json == []
    modest = write(tmp_path / "modest.json", run("quote", greedy, "--adopt").out)
    assert run("quote", modest).code == 0
    sent = run("submit", modest, "--key", "once", "--format", "json").json
    again = run("submit", modest, "--key", "once", "--format", "json")
    assert again.json["id"] == sent["id"]
    assert "jobs watch" in again.err
    assert run("jobs", "watch", sent["id"], "--timeout", "0.1").code == 7
    assert run("jobs", "result", sent["id"]).code == 7
    assert run("jobs", "cancel", sent["id"], "--format", "json").json["status"] == "cancelled"
    over = run("submit", modest, "--key", "once").err
    assert "cancelled" in over
    assert "jobs watch" not in over
    assert run("jobs", "watch", sent["id"]).code == 7
    assert run("jobs", "receipt", sent["id"], "--format", "json").code == 0
    assert "cancelled" in run("jobs", "show", sent["id"]).out


def test_an_owner_agrees_to_a_job_and_rejects_another(
    run: Run, as_role: Callable[[str], None], house: House
) -> None:
    asks = POLICY.read_text(encoding="utf-8").replace(
        "answer.of(deny, set(),",
        'answer.of(deny, {{"role": "owner", "count": 1, "within_hours": 24}},',
    )
    tests = POLICY.with_name("price_cap_test.rego").read_text(encoding="utf-8")
    house.owner.owner.publish_policy(house.dataset.id, asks, tests=tests)
    wanted, other = (house.researcher.submit(house.job()) for _ in range(2))
    as_role("researcher")
    assert run("jobs", "decide", wanted.id, "approve").code == 4
    as_role("owner")
    waiting = run("jobs", "list", "--status", "awaiting_approval", "--format", "json").json
    assert {job["id"] for job in waiting} == {wanted.id, other.id}
    agreed = run("jobs", "decide", wanted.id, "approve", "--note", "fits", "--format", "json")
    assert agreed.json["status"] == "queued"
    assert "denied" in run("jobs", "decide", other.id, "reject").out
    assert run("jobs", "decide", wanted.id, "approve").code == 3
    assert run("jobs", "decide", wanted.id, "perhaps").code == 2


def test_rules_of_one_code_are_all_shown(
    run: Run, as_role: Callable[[str], None], house: House, tmp_path: Path
) -> None:
    as_role("researcher")
    asked = house.job(noise_multiplier=0.1, clients_per_round=1)
    shown = run("quote", write(tmp_path / "job.json", asked)).out
    floors = next(line for line in shown.splitlines() if line.startswith("refused: floor"))
    assert "noise_multiplier" in floors
    assert "clients_per_round" in floors


def test_a_shape_without_dimensions_is_shown_as_such(
    run: Run, as_role: Callable[[str], None], house: House
) -> None:
    as_role("owner")
    shown = run("dataset", "show", house.dataset.id).out
    assert "shape 2, 2" in shown
    assert "shape –" in shown


def test_an_owner_withdraws_a_data_set_and_offers_it_again(
    run: Run, as_role: Callable[[str], None], house: House
) -> None:
    as_role("owner")
    for verb, frozen in (("freeze", True), ("unfreeze", False)):
        words = ("dataset", verb, house.dataset.id, "--reason", "complaint", "--format", "json")
        assert run(*words).json["frozen"] is frozen


def test_a_dry_run_decides_and_reserves_nothing(
    run: Run, as_role: Callable[[str], None], house: House, tmp_path: Path
) -> None:
    as_role("owner")
    job = write(tmp_path / "job.json", {"job": house.job(purpose="marketing")})
    tried = run("policy", "dry-run", house.dataset.id, 1, job, "--format", "json").json
    assert tried["outcome"] == "deny"
    assert tried["input"]["subject"]["roles"] == ["researcher"]
    named = ("--as-researcher", "researcher@example.org", "--format", "json")
    known = run("policy", "dry-run", house.dataset.id, 1, job, *named).json
    assert known["input"]["subject"]["id"] == house.gateway.ids["researcher"]
    assert house.owner.budget(house.dataset.population).epsilon_reserved == 0


def test_an_auditor_exports_and_verifies_without_a_server(
    run: Run, as_role: Callable[[str], None], house: House, tmp_path: Path
) -> None:
    house.researcher.submit(house.job()).cancel()
    as_role("auditor")
    listed = run("ledger", "list", "--population", house.dataset.population, "--format", "json")
    assert [entry["kind"] for entry in listed.json] == ["open", "reserve", "void"]
    export = tmp_path / "ledger.jsonl"
    decisions = tmp_path / "decisions.jsonl"
    assert run("ledger", "export", "-o", export).code == 0
    assert run("ledger", "decisions", "-o", decisions).code == 0
    run("logout")
    matched = run("verify", export, "--decisions", decisions, "--format", "json")
    assert (matched.code, matched.json["decisions"], matched.json["problems"]) == (0, 1, [])
    other = decisions.read_bytes().replace(b'"outcome":"allow"', b'"outcome":"deny"')
    decisions.write_bytes(other)
    denied = run("verify", export, "--decisions", decisions, "--format", "json")
    assert denied.code == 8
    assert [problem["kind"] for problem in denied.json["problems"]] == ["decision"]
    assert run("verify", export).code == 0
    head = listed.json[-1]
    expected = f"{head['population']}:{head['seq']}:{head['hash']}"
    wrong = f"{head['population']}:{head['seq']}:{'0' * 64}"
    assert run("verify", export, "--expect", expected).code == 0
    for order in ((wrong, expected), (expected, wrong)):
        heads = [word for text in order for word in ("--expect", text)]
        told = run("verify", export, *heads)
        assert told.code == 8
        assert "1 problem:" in told.err
    data = bytearray(export.read_bytes())
    data[data.index(b'"kind":"reserve"') + 9] ^= 1
    export.write_bytes(data)
    found = run("verify", export, "--format", "json")
    assert found.code == 8
    assert found.json["problems"][0]["seq"] == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["quote", "absent.json"], 3),
        (["verify", "absent.jsonl"], 3),
        (["verify", "/dev/null", "--expect", "pop:one:hash"], 3),
        (["verify", "/dev/null"], 8),
        (["verify", TAMPERED / "honest.jsonl", "--key", TAMPERED / "key.txt"], 0),
        (["verify", TAMPERED / "honest.jsonl", "--key", TAMPERED / "other-key.txt"], 8),
        (["verify", TAMPERED / "honest.jsonl", "--decisions", "absent.jsonl"], 3),
        (["verify", TAMPERED / "part.jsonl", "--consistency", "absent.json"], 3),
        (["verify", TAMPERED / "honest.jsonl", "--consistency", TAMPERED / "key.txt"], 3),
        (["jobs", "show", "job_absent"], 4),
        (["jobs", "show"], 2),
        (["nonsense"], 2),
        (["--version"], 0),
        (["--help"], 0),
        (["login", "--email", "a@b.c", "--url", "http://127.0.0.1:1", "--password-stdin"], 6),
        (["login", "--email", "a@b.c", "--url", "gateway.example", "--password-stdin"], 3),
    ],
)
def test_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.setattr("privacy_gateway.connection.FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("sys.stdin", open("/dev/null", encoding="utf-8"))  # noqa: SIM115,PTH123
    ran = run(*arguments)
    assert ran.code == code
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("name", "value"),
    [("PRIVACY_GATEWAY_URL", "gateway.example"), ("PRIVACY_GATEWAY_TOKEN", "pgt_é")],
)
def test_an_environment_that_cannot_be_is_refused_by_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", "pgt_x")
    monkeypatch.setenv(name, value)
    ran = run("whoami")
    assert ran.code == 3
    assert name.rpartition("_")[2].lower() in ran.err.lower()


def test_a_place_that_cannot_be_written_is_refused_and_spoils_nothing(
    run: Run, as_role: Callable[[str], None], house: House, tmp_path: Path
) -> None:
    as_role("auditor")
    absent = tmp_path / "absent" / "file"
    data = house.dataset
    for command in (
        ["ledger", "export", "-o", absent],
        ["ledger", "decisions", "-o", absent],
        ["ledger", "checkpoint", "-o", absent],
        ["dataset", "mock", data.id, "-o", absent],
        ["statement", "--population", data.population, "--format", "json", "-o", absent],
    ):
        ran = run(*command)
        assert (ran.code, "output: " in ran.err) == (3, True), ran
        assert str(absent) in ran.err
    kept = write(tmp_path / "decisions.jsonl", "of another day")
    as_role("researcher")
    assert run("ledger", "decisions", "-o", kept).code == 4
    assert kept.read_text() == "of another day"
    assert not list(tmp_path.glob("*.part"))


def test_not_found_and_forbidden_have_their_own_codes(
    run: Run, as_role: Callable[[str], None], house: House
) -> None:
    as_role("researcher")
    assert run("jobs", "show", "job_absent").code == 5
    assert run("ledger", "list").code == 4


@pytest.mark.parametrize(
    ("text", "field"),
    [('{"rounds": NaN}', "rounds"), ('{"rounds": 1, "rounds": 2}', "rounds"), ("[1]", "job")],
)
def test_job_files_are_read_strictly(
    run: Run, as_role: Callable[[str], None], tmp_path: Path, text: str, field: str
) -> None:
    as_role("researcher")
    refused = run("submit", write(tmp_path / "job.json", text))
    assert refused.code == 3
    assert f"{field}:" in refused.err


def test_exit_codes_are_documented_in_help(run: Run) -> None:
    shown = " ".join(run("--help").out.split())
    for code in EXITS:
        assert f"{code} " in shown.partition("Exit codes:")[2]


def test_other_distributions_add_commands(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Extra(EntryPoint):
        def load(self) -> Callable[[typer.Typer], None]:
            if self.name == "broken":
                raise ImportError("no module")
            return lambda app: app.command("extra")(lambda: print("extra ran"))

    points = [Extra(name, f"{name}:x", commands.GROUP) for name in ("good", "broken")]
    monkeypatch.setattr(commands, "entry_points", lambda group: points)
    ran = run("extra")
    assert (ran.code, ran.out) == (0, "extra ran\n")
    assert "broken:x are left out" in ran.err
    # A command of our own is not kept waiting for theirs.
    assert "left out" not in run("verify", "absent").err


def test_the_calculator_gives_the_announcements_price(run: Run) -> None:
    announced = ["--clients", 3, "--clients-per-round", 2, "--rounds", 10]
    announced += ["--noise-multiplier", 0.05, "--delta", "1e-5"]
    priced = run("price", *announced, "--budget-epsilon", 8, "--format", "json").json
    assert priced["epsilon_rdp"] == pytest.approx(2267.1770956999753)
    assert priced["fit"]["jobs"] == 0
    assert "2267.177" in run("price", *announced).out
    refused = run("price", *announced[:2], "--clients-per-round", 4, *announced[4:])
    assert refused.code == 3
    assert "clients_per_round" in refused.err
    # A misspelt word must not be priced as something else.
    for option in ("--algorithm", "--sampling", "--cohort"):
        misspelt = run("price", *announced, option, "dp_ftlr")
        assert (misspelt.code, misspelt.out) == (2, "")
        assert option in misspelt.err
