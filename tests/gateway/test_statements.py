"""Statements over HTTP: who may have one, the page's headers, and the check on the command line."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privacy_gateway.cli.commands import build
from tests.gateway.clinic import Clinic, open_population, opened
from tests.gateway.conftest import Gateway
from tests.gateway.test_log import signed

ASK = "/v1/statements"


@pytest.fixture
def clinic(gateway: Gateway) -> Clinic:
    """A clinic where a job was reserved, another refused, and the first cancelled."""
    found = opened(gateway)
    job = gateway.ok("researcher", "POST", "/v1/jobs", json=found.job())
    gateway.refused("researcher", "POST", "/v1/jobs", json=found.job(purpose="ads"))
    gateway.ok("researcher", "POST", f"/v1/jobs/{job['id']}/cancel")
    signed(gateway, 4)
    return found


def test_a_statement_is_checked_offline_by_the_command_line(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = clinic.house
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", house.url)
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", house.tokens["auditor"])
    monkeypatch.chdir(tmp_path)
    command = build(extensions=False)

    def run(*words: str) -> Any:
        return CliRunner().invoke(command, list(words))

    key = house.ok("auditor", "GET", "/v1/ledger/keys")["items"][0]["public"]
    for form in ("html", "json"):
        made = run("statement", "--population", clinic.population, "--format", form)
        assert made.exit_code == 0, made.output
    assert run("ledger", "export", "-o", "ledger.parquet").exit_code == 0
    for form in ("html", "json"):
        file = tmp_path / f"statement.{form}"
        good = run("statement", "verify", str(file), "--key", key, "--export", "ledger.parquet")
        assert good.exit_code == 0, good.output
        assert "every figure follows" in good.stderr
        assert "entry 4" in good.stdout
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("policy_denied", "policy_danced"), encoding="utf-8")
        bad = run("statement", "verify", str(file), "--key", key)
        assert bad.exit_code == 8
        assert "not to be believed" in bad.stderr
    assert run("statement").exit_code != 0


def test_the_page_needs_nothing_from_anywhere(clinic: Clinic) -> None:
    with clinic.house.client("owner") as client:
        answer = client.get(ASK, params={"population": clinic.population, "format": "html"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert not re.findall(r"""\s(?:src|href|style|on\w+)\s*=\s*["']""", answer.text)
    assert answer.text.count("<caption>") == answer.text.count("<table>")
    assert 'role="img" aria-labelledby="plot-title plot-text"' in answer.text
    assert clinic.population in answer.text


def test_the_figures_are_the_budgets(clinic: Clinic) -> None:
    document = clinic.house.ok("owner", "GET", ASK, params={"population": clinic.population})
    told, budget = document["statement"], clinic.budget()
    assert told["closing"]["spent_nano"] / 1e9 == budget["epsilon_spent"]
    assert told["closing"]["remaining_nano"] / 1e9 == budget["epsilon_remaining"]
    assert told["refusals"] == {"count": 1, "codes": {"policy_denied": 1}}
    (job,) = told["jobs"]
    assert (job["dataset"], job["researcher"]) == (clinic.dataset, clinic.house.ids["researcher"])
    assert job["purpose"] == "research"
    assert json.loads(json.dumps(document)) == document


def test_only_whose_it_is_gets_it(clinic: Clinic) -> None:
    house = clinic.house
    house.add("other", "owner")
    open_population(house, "other")
    mine = {"population": clinic.population}
    hidden = house.refused("other", "GET", ASK, params=mine)
    absent = house.refused("other", "GET", ASK, params={"population": "pop_none"})
    assert hidden["code"] == absent["code"] == "not_found"
    assert hidden["detail"] == absent["detail"]
    assert house.refused("researcher", "GET", ASK, params=mine)["code"] == "forbidden"
    for wrong in ({"from": "yesterday"}, {"to": "2999-01-01T00:00:00Z"}, {"format": "pdf"}):
        problem = house.refused("auditor", "GET", ASK, params=mine | wrong)
        assert problem["code"] == "invalid_request"
        assert problem["errors"][0]["field"] == next(iter(wrong))
    assert house.refused("auditor", "GET", ASK)["code"] == "invalid_request"
