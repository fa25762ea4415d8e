"""What a researcher does with the library, against a real gateway."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

import privacy_gateway as pg
from privacy_gateway.schemas import JobRequest
from tests.client.conftest import CLIENTS, PASSWORD, House


def test_login_by_port_password_and_token(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(house.gateway.url.rsplit(":", 1)[1])
    assert pg.login("researcher@example.org", PASSWORD, port=port).me.role == "researcher"
    monkeypatch.setenv("PRIVACY_GATEWAY_URL", house.gateway.url)
    monkeypatch.setenv("PRIVACY_GATEWAY_TOKEN", house.gateway.tokens["auditor"])
    assert pg.login().me.role == "auditor"
    # Named credentials go before the environment's token.
    assert pg.login("owner@example.org", PASSWORD).me.role == "owner"


def test_a_wrong_password_is_refused(house: House) -> None:
    with pytest.raises(pg.Refused) as caught:
        pg.login("researcher@example.org", "hunter2", url=house.gateway.url)
    assert caught.value.code == "unauthenticated"
    assert "hunter2" not in str(caught.value)


def test_the_announcements_way_to_an_asset(house: House) -> None:
    datasets = house.researcher.datasets
    asset = datasets[0]["images"]
    assert asset.id_at_location.to_string() == house.dataset["images"].id_at_location.to_string()
    assert asset.shape == (2, 2)
    assert datasets["digits"].id == datasets[house.dataset.id].id == house.dataset.id
    assert datasets[0].clients == CLIENTS
    with pytest.raises(KeyError, match="'images', 'labels'"):
        datasets[0]["absent"]


def test_a_quote_changes_nothing_and_equals_the_reservation(house: House) -> None:
    population = house.dataset.population
    before = house.owner.budget(population)
    quote = house.researcher.quote(house.job())
    assert quote.passes
    assert quote.adopt() == house.job()
    assert house.owner.budget(population) == before
    job = quote.submit()
    after = house.owner.budget(population)
    assert job.view.epsilon == pytest.approx(quote.epsilon)
    assert after.epsilon_reserved == pytest.approx(quote.budget_after)


def test_a_refusal_carries_rules_price_and_a_counter_offer_that_passes(house: House) -> None:
    too_much = house.job(rounds=200, noise_multiplier=0.5)
    quote = house.researcher.quote(too_much)
    assert not quote.passes
    with pytest.raises(pg.Refused) as caught:
        house.researcher.submit(too_much)
    refusal = caught.value
    assert refusal.code in {"policy_denied", "budget_exceeded"}
    assert refusal.price == pytest.approx(quote.epsilon)
    assert refusal.rules
    assert refusal.left is not None
    assert refusal.counter_offer["job"] == quote.adopt()
    assert house.researcher.submit(quote.adopt()).status == "queued"


def test_the_inverse_answer_is_admitted_and_one_step_further_is_not(house: House) -> None:
    most = house.researcher.inverse(house.job(), "rounds").value
    assert isinstance(most, int)
    assert house.researcher.quote(house.job(rounds=most)).passes
    assert not house.researcher.quote(house.job(rounds=most + 1)).passes


def test_the_same_key_is_the_same_job(house: House) -> None:
    first, second = (house.researcher.submit(house.job(), idempotency_key="k") for _ in range(2))
    assert first.id == second.id
    with pytest.raises(pg.Refused) as caught:
        house.researcher.submit(house.job(rounds=3), idempotency_key="k")
    assert caught.value.code == "idempotency_mismatch"
    assert [job.id for job in house.researcher.jobs()] == [first.id]


def test_a_typed_request_and_a_mapping_are_the_same(house: House) -> None:
    typed = JobRequest.model_validate(house.job())
    assert house.researcher.quote(typed).epsilon == house.researcher.quote(house.job()).epsilon


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rounds": "10"}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"noise_multiplier": None}, "noise_multiplier"),
        ({"epsilon": 8.0}, "epsilon"),
        ({"seed": 1}, "seed"),
    ],
)
def test_bad_requests_are_refused_by_field(
    house: House, change: dict[str, object], field: str
) -> None:
    with pytest.raises(pg.Refused) as caught:
        house.researcher.submit(house.job(**change))
    assert [error.field for error in caught.value.errors] == [field]


def test_a_job_is_cancelled_waited_for_and_found_again(house: House) -> None:
    job = house.researcher.submit(house.job())
    with pytest.raises(pg.Refused) as caught:
        job.result()
    assert caught.value.code == "not_ready"
    job.cancel()
    assert job.wait(timeout=10, progress=False).status == "cancelled"
    again = house.researcher.job(job.id)
    assert again.ended
    assert again.receipt()["job"]
    assert house.owner.budget(house.dataset.population).epsilon_reserved == 0


def test_waiting_too_long_says_how_to_come_back(house: House) -> None:
    job = house.researcher.submit(house.job())
    with pytest.raises(TimeoutError, match=f"jobs watch {job.id}"):
        job.wait(timeout=0.1, progress=False)
    assert house.researcher.job(job.id).status == "queued"


def test_ctrl_c_detaches_and_leaves_the_job(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    job = house.researcher.submit(house.job())
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")

    def interrupt(_seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    waited = job.wait(progress=False, pause=interrupt)
    assert waited.status == "queued"
    assert f"domain.job({job.id!r}).wait()" in capsys.readouterr().err


def test_other_peoples_jobs_do_not_exist(house: House) -> None:
    job = house.researcher.submit(house.job())
    house.gateway.add("rival", "researcher")
    rival = pg.login("rival@example.org", PASSWORD, url=house.gateway.url)
    assert rival.jobs() == []
    with pytest.raises(pg.Refused) as caught:
        rival.job(job.id)
    assert caught.value.code == "not_found"


def test_the_ledger_is_exported_and_verified(house: House, tmp_path: Path) -> None:
    from privacy_gateway.verify import verify

    house.researcher.submit(house.job()).cancel()
    auditor = pg.login(url=house.gateway.url, token=house.gateway.tokens["auditor"])
    entries = auditor.ledger(population=house.dataset.population)
    assert [entry["kind"] for entry in entries] == ["open", "reserve", "void"]
    export = auditor.export_ledger(tmp_path / "ledger.jsonl")
    with export.open("rb") as lines:
        report = verify(lines)
    assert (report.ok, report.entries) == (True, 3)


def test_everything_shows_itself_without_markup_of_others(house: House) -> None:
    researcher = house.researcher
    quote = researcher.quote(house.job(rounds=200, noise_multiplier=0.5))
    job = researcher.submit(house.job(purpose="teaching"))
    evil = house.owner.owner.create_population("<b>x", clients=3, epsilon=1, delta=1e-5)
    shown = [researcher, researcher.datasets, researcher.datasets[0], quote, job]
    for thing in [*shown, researcher.datasets[0]["images"]]:
        assert repr(thing)
        assert "<" in thing._repr_html_()
    assert "counter-offer" in repr(quote)
    assert "queued" in repr(job)
    from privacy_gateway.notebook import html_facts

    assert "<b>x" not in html_facts(evil.name, evil.model_dump())
    assert house.gateway.tokens["researcher"] not in repr(researcher.connection)
