"""The input document: canonical, whole numbers for ε, and exactly as its schema says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.clock import from_micros
from policies import question as asked
from policies.question import Question, for_policy, input_schema
from privacy_gateway import canonical
from privacy_gateway.errors import Refused
from tests.support.questions import MOMENT, question

BASE: dict[str, Any] = {
    "request_id": "job_1",
    "kind": "train",
    "at": MOMENT,
    "subject": asked.SubjectFacts("usr_1", ("researcher",), "university"),
    "dataset": asked.DatasetFacts("ds_1", "pop_1", 1000, "person"),
    "job": asked.JobFacts(
        "dp_fedavg",
        "research",
        20,
        40,
        0.8,
        1.0,
        1,
        ("weights",),
        asked.ModelFacts("ab", ("Dense",), 10),
    ),
    "cost": asked.CostFacts("dp", 1e-5, 1, 0, 1, asked.ComputeFacts(1, 1)),
    "budget": asked.BudgetFacts(8, 8, 0),
    "history": asked.HistoryFacts(),
    "policy_id": "pol_1",
    "policy_version": 1,
}


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(dict(input_schema()))


@given(
    at=st.integers(0, 7_000_000_000_000_000).map(from_micros),
    noise=st.floats(0.01, 1e4),
    clip=st.floats(1e-6, 1e6) | st.just("adaptive"),
    cohort=st.integers(1, 1000),
    delta=st.floats(1e-12, 1e-3),
    prices=st.lists(st.integers(0, 2**63 - 1), min_size=6, max_size=6),
    quota=st.booleans(),
    last=st.none() | st.just(MOMENT),
)
def test_every_question_fits_the_schema(
    at: datetime,
    noise: float,
    clip: float | str,
    cohort: int,
    delta: float,
    prices: list[int],
    quota: bool,
    last: datetime | None,
) -> None:
    share = asked.QuotaFacts(prices[0], prices[1]) if quota else None
    changes = {
        "at": at,
        "job": replace(
            BASE["job"], noise_multiplier=noise, clip_norm=clip, clients_per_round=cohort
        ),
        "cost": replace(BASE["cost"], delta=delta, epsilon_nano=prices[2]),
        "budget": asked.BudgetFacts(prices[3], prices[4], prices[5], share),
        "history": asked.HistoryFacts(3, prices[0], last),
    }
    built = asked.build(**(BASE | changes))
    jsonschema.validate(json.loads(built.canonical), dict(input_schema()))
    assert built.document["budget"]["quota"]["limited"] is quota


@pytest.mark.parametrize("path", ["job", "cost", "budget", "history", "request", "derived"])
def test_the_schema_refuses_unknown_members(path: str) -> None:
    document = json.loads(question().canonical)
    document[path]["typo"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, dict(input_schema()))


def test_bytes_are_canonical_and_named_by_their_digest() -> None:
    built = question()
    again = Question.of_bytes(built.canonical)
    assert again.canonical == built.canonical
    assert again.digest == built.digest
    assert list(json.loads(built.canonical)) == sorted(built.document)


def test_time_is_told_in_utc_whatever_the_zone() -> None:
    zone = timezone(timedelta(hours=5))
    built = asked.build(**(BASE | {"at": datetime(2026, 3, 2, 1, 15, tzinfo=zone)}))
    assert built.document["request"]["time"] == "2026-03-01T20:15:00.000000Z"
    assert built.document["request"]["weekday"] == "sunday"
    assert built.document["request"]["minute_of_day_utc"] == 20 * 60 + 15


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError):
        asked.build(**(BASE | {"at": MOMENT.replace(tzinfo=None)}))


def test_derived_numbers_err_towards_privacy() -> None:
    changes = {
        "job": replace(BASE["job"], noise_multiplier=0.29999999, clients_per_round=1),
        "dataset": asked.DatasetFacts("ds_1", "pop_1", 3, "person"),
    }
    derived = asked.build(**(BASE | changes)).document["derived"]
    assert derived == {
        "sampling_rate_ppm": 333_334,
        "delta_times_clients_ppm": 30,
        "noise_multiplier_ppm": 299_999,
        "clip_norm_ppm": 1_000_000,
    }


def test_decimals_are_taken_as_written() -> None:
    built = asked.build(**(BASE | {"job": replace(BASE["job"], noise_multiplier=0.3)}))
    assert built.document["derived"]["noise_multiplier_ppm"] == 300_000


def test_too_large_a_question_is_refused() -> None:
    tags = tuple(f"tag-{number}" for number in range(10_000))
    dataset = asked.DatasetFacts("ds_1", "pop_1", 1000, "person", tags)
    with pytest.raises(Refused) as refused:
        asked.build(**(BASE | {"dataset": dataset}))
    assert refused.value.code == "too_large"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_never_becomes_a_question(value: float) -> None:
    with pytest.raises(ValueError):
        asked.build(**(BASE | {"job": replace(BASE["job"], noise_multiplier=value)}))


def test_another_revision_is_asked_the_same() -> None:
    other = for_policy(question(), "pol_2", 7)
    assert other.document["policy"] == {"id": "pol_2", "version": 7}
    assert other.document["job"] == question().document["job"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_question_at_another_moment_is_the_one_built_anew(stored: bool) -> None:
    first = asked.build(**BASE)
    if stored:
        first = Question.of_bytes(first.canonical)
    moved = {
        "request_id": "job_2",
        "at": MOMENT + timedelta(hours=9),
        "subject": asked.SubjectFacts("usr_2", ("owner",), ""),
        "cost": replace(BASE["cost"], budget_epsilon_nano_before=5, budget_epsilon_nano_after=6),
        "budget": asked.BudgetFacts(8, 3, 5, asked.QuotaFacts(2, 1)),
        "history": asked.HistoryFacts(3, 4, MOMENT),
    }
    fresh = asked.build(**(BASE | moved))
    assert asked.at_moment(first, kind="train", **moved) == fresh
    assert fresh.canonical == canonical.dumps(fresh.document, floats=True)
