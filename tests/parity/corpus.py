"""The examples with the values at which their rules turn: on the limit, and either side."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policies.question import Question
from tests.support.questions import EPSILON, question

Boundaries = Mapping[str, Sequence[Any]]
"""Values to try by path; the first of each is one that the policy allows."""

MOST = 2**63 - 1
NOT_A_NUMBER: tuple[Any, ...] = ("NaN", None, True, [], {})

MONDAY = {"time": "2027-07-05T08:00:00.000000Z", "time_ns": 1_814_774_400_000_000_000}
MONDAY |= {"weekday": "monday", "minute_of_day_utc": 480}
REQUEST = {"id": "job_1", "kind": "train"}


def at(**changes: Any) -> dict[str, Any]:
    """A `request` in the summer school's first minute, with changes."""
    return REQUEST | MONDAY | changes


def share(**changes: Any) -> dict[str, Any]:
    """An untouched share of ε = 2 of a project, with changes."""
    whole = {"limited": True, "epsilon_nano": 2 * EPSILON, "remaining_epsilon_nano": 2 * EPSILON}
    return whole | changes


BOUNDARIES: dict[str, Boundaries] = {
    "open_lab": {
        "job__purpose": ["research", "teaching", "marketing", ""],
        "cost__epsilon_nano": [EPSILON, 6 * EPSILON, 6 * EPSILON + 1, MOST, *NOT_A_NUMBER],
        "derived__noise_multiplier_ppm": [800_000, 300_000, 299_999, *NOT_A_NUMBER],
        "job__clients_per_round": [40, 2, 1, *NOT_A_NUMBER],
    },
    "price_cap": {
        "job__purpose": ["research", "teaching", "marketing", "Research", ""],
        "cost__epsilon_nano": [1, 0, 2 * EPSILON - 1, 2 * EPSILON, 2 * EPSILON + 1, MOST],
        "cost__budget_epsilon_nano_after": [0, 8 * EPSILON, 8 * EPSILON + 1, MOST],
        "derived__noise_multiplier_ppm": [300_000, 0, 299_999, 300_001, *NOT_A_NUMBER],
        "job__clients_per_round": [10, 1, 9, 11, 1000, "10"],
    },
    "university_course": {
        "job__purpose": ["coursework", "research"],
        "job__rounds": [1, 100, 101, 1_000_000],
        "job__model__parameters": [1, 100_000, 100_001],
        "cost__epsilon_nano": [1, 500_000_000, 500_000_001, EPSILON, EPSILON + 1],
        "history__jobs_by_subject": [0, 9, 10, 11],
        "history__charged_epsilon_nano_by_subject": [0, EPSILON // 2, EPSILON, 2**62],
        "request__weekday": ["monday", "saturday", "sunday"],
        "subject__roles": [["researcher"], ["researcher", "auditor"], ["auditor"], []],
        "derived__noise_multiplier_ppm": [500_000, 499_999],
    },
    "hospital": {
        "job__purpose": ["clinical_research", "quality_improvement", "research"],
        "subject__organisation": ["st_mary", "university_hospital", "insurer", None],
        "subject__roles": [["researcher"], ["owner"], [], "researcher"],
        "job__clients_per_round": [60, 50, 49, *NOT_A_NUMBER],
        "derived__sampling_rate_ppm": [60_000, 200_000, 200_001, *NOT_A_NUMBER],
        "derived__noise_multiplier_ppm": [800_000, 799_999, *NOT_A_NUMBER],
        "cost__epsilon_nano": [1, EPSILON, EPSILON + 1, 2 * EPSILON, 2 * EPSILON + 1],
        "cost__budget_epsilon_nano_after": [1, 8 * EPSILON, 8 * EPSILON + 1],
    },
    "purpose_bound": {
        "job__purpose": ["research", "teaching", "drug_safety", "marketing", "", None, 1],
        "cost__epsilon_nano": [
            1,
            *(cap + step for cap in (EPSILON // 2, 2 * EPSILON, 3 * EPSILON) for step in (0, 1)),
            *NOT_A_NUMBER,
        ],
        "cost__budget_epsilon_nano_after": [1, 8 * EPSILON, 8 * EPSILON + 1],
        "derived__noise_multiplier_ppm": [500_000, 499_999],
        "job__clients_per_round": [10, 9],
    },
    "summer_school": {
        "job__purpose": ["summer_school", "research"],
        "request": [
            at(),
            at(time_ns=at()["time_ns"] - 32 * 3600 * 10**9 - 1),
            at(time_ns=1_815_782_400_000_000_000, minute_of_day_utc=0),
            at(time_ns=1_815_782_399_999_999_999, weekday="friday", minute_of_day_utc=1079),
            at(minute_of_day_utc=479),
            at(minute_of_day_utc=1079),
            at(minute_of_day_utc=1080),
            at(weekday="saturday"),
            at(weekday=None, time_ns=None, minute_of_day_utc="480"),
        ],
        "history__last_job_time": [
            None,
            "2027-07-05T07:00:00.000000Z",
            "2027-07-05T07:00:00.000001Z",
            "yesterday",
            "",
            7,
        ],
        "history__jobs_by_subject": [0, 29, 30, *NOT_A_NUMBER],
        "cost__epsilon_nano": [1, 200_000_000, 200_000_001],
        "cost__budget_epsilon_nano_after": [1, 8 * EPSILON + 1],
        "derived__noise_multiplier_ppm": [1_000_000, 999_999],
        "job__clients_per_round": [20, 19],
    },
    "project_quota": {
        "job__project": ["cardiology", "drug_safety", "oncology", "Cardiology", ""],
        "job__purpose": ["clinical_research", "quality_improvement", "research", ""],
        "budget__project_quota": [
            share(),
            *(share(remaining_epsilon_nano=2 * EPSILON // 5 + step) for step in (-1, 0, 1)),
            *(share(remaining_epsilon_nano=left) for left in (0, *NOT_A_NUMBER)),
            *(share(limited=limited) for limited in (False, None, "true", 1)),
            *(share(epsilon_nano=whole) for whole in (0, 1, MOST, *NOT_A_NUMBER)),
        ],
        "cost__epsilon_nano": [
            1,
            *(EPSILON // 2 + step for step in (-1, 0, 1)),
            *NOT_A_NUMBER,
        ],
        "cost__budget_epsilon_nano_after": [1, 8 * EPSILON, 8 * EPSILON + 1],
        "derived__noise_multiplier_ppm": [500_000, 499_999],
        "job__clients_per_round": [10, 9],
    },
    "dwindling_budget": {
        "job__purpose": ["research", "marketing"],
        "cost__epsilon_nano": [1, 800_000_000, 800_000_001, *NOT_A_NUMBER],
        "cost__budget_epsilon_nano_after": [
            1,
            *(share * EPSILON // 10 + step for share in (40, 64, 80) for step in (0, 1)),
            *NOT_A_NUMBER,
        ],
        "budget__epsilon_nano": [8 * EPSILON, 0, *NOT_A_NUMBER],
        "derived__noise_multiplier_ppm": [500_000, 499_999],
        "job__clients_per_round": [10, 9],
    },
}


def allowed(name: str) -> dict[str, Any]:
    """Changes that make an ordinary job one which this example allows."""
    return {path: values[0] for path, values in BOUNDARIES[name].items()}


def alone(name: str) -> Iterator[Question]:
    """Every value by itself, all else allowed."""
    for path, values in BOUNDARIES[name].items():
        for value in values:
            yield question(**(allowed(name) | {path: value}))


def mixed(name: str, chance: random.Random, *, daring: float = 0.3) -> Question:
    """A random mixture; each value leaves the allowed one with probability `daring`."""
    changes = {
        path: chance.choice(values) if chance.random() < daring else values[0]
        for path, values in BOUNDARIES[name].items()
    }
    return question(**changes)
