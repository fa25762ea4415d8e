"""Sweeps through the library, against a real gateway."""

from __future__ import annotations

import pytest

import privacy_gateway as pg
from tests.client.conftest import House


def test_a_sweep_is_quoted_submitted_found_and_cancelled(house: House) -> None:
    population = house.dataset.population
    jobs = [house.job(rounds=2), house.job(rounds=3)]
    before = house.owner.budget(population)
    quoted = house.researcher.quote_sweep(jobs)
    assert house.owner.budget(population) == before
    assert quoted.verdict == "allow"
    sweep = house.researcher.submit_sweep(jobs, idempotency_key="grid")
    assert [job.view.rounds for job in sweep] == [2, 3]
    assert house.owner.budget(population).epsilon_reserved == pytest.approx(
        quoted.budgets[0].budget_after
    )
    again = house.researcher.submit_sweep(jobs, idempotency_key="grid")
    assert again.id == sweep.id
    assert sweep.id in repr(sweep)
    assert not house.researcher.sweep(sweep.id).ended
    assert sweep.cancel().ended
    assert house.owner.budget(population).epsilon_reserved == 0.0


def test_a_refused_member_is_named_and_nothing_is_reserved(house: House) -> None:
    jobs = [house.job(rounds=2), house.job(rounds=2, noise_multiplier=0.01)]
    with pytest.raises(pg.Refused) as caught:
        house.researcher.submit_sweep(jobs)
    assert caught.value.facts["member"] == 1
    assert caught.value.errors[0].field.startswith("jobs[1].")
    assert house.owner.budget(house.dataset.population).epsilon_reserved == 0.0
