"""Questions that no sound policy allows, and ordinary ones on which all engines must agree.

They are made, not stored: the names a policy mentions are tried as purposes, so that a probe is not
denied merely because nobody ever heard of its purpose. Nothing here depends on anybody's data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise, product
from typing import Any, get_args

from policies import question as asked
from policies.question import Question
from policies.reads import paths_read
from policies.text import tokens
from privacy_gateway.schemas import Role

Floor = Callable[[Mapping[str, Any]], bool]
"""True when the floors in Python refuse the job of an input document, whatever a policy says."""

UNKNOWN_PURPOSE = "gateway-probe-unknown-purpose"
MOST_PURPOSES = 12
MOST_SAMPLED = 6
MOST_MOMENTS = 7
MOST_OCCASIONS = 24
MOST_CALLERS = 16
MOST_ASKED = 96
ORDINARY = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
"""A Wednesday morning."""
_EPSILON = 1_000_000_000
_BUDGET = 8 * _EPSILON


@dataclass(frozen=True, slots=True)
class Probe:
    """One question and what it tries."""

    name: str
    question: Question


def no_floor(_document: Mapping[str, Any]) -> bool:
    """Leaves everything to the policy."""
    return False


def floor_of(*, minimum_clients_per_round: int, minimum_noise_multiplier: float) -> Floor:
    """The floors of a gateway as a function of the input document.

    What does not fit into the budget is refused by the accountant, what is no number at the door.
    """

    def refuses(document: Mapping[str, Any]) -> bool:
        job, cost, budget = document["job"], document["cost"], document["budget"]
        noise = job["noise_multiplier"]
        if isinstance(noise, str) or noise < minimum_noise_multiplier:
            return True
        if job["clients_per_round"] < minimum_clients_per_round:
            return True
        return bool(cost["budget_epsilon_nano_after"] > budget["epsilon_nano"])

    return refuses


# A text is examined as a draft, tried, activated: its questions are made once. Two texts are
# compared at most, and those of one may take ten megabytes.
@lru_cache(maxsize=2)
def must_deny(source: str) -> tuple[Probe, ...]:
    """Jobs that must be denied by the policy or refused by the floors.

    They are asked at an ordinary moment and at those the policy mentions, by somebody who has every
    role, from each organisation and for each project it mentions: a probe is not to be denied for
    coming too early or from nowhere.
    """
    return tuple(_must_deny(source))


def _must_deny(source: str) -> Iterator[Probe]:
    occasions = list(product(moments(source), purposes(source)))[:MOST_OCCASIONS]
    for (moment, purpose), caller in islice(product(occasions, callers(source)), MOST_ASKED):
        base = caller.asking(_document(purpose, moment))
        yield Probe("epsilon_over_budget", _question(_over_budget(base)))
        yield Probe("noise_too_small", _question(_with_noise(base, 0.05)))
        yield Probe("noise_not_a_number", _question(_with_noise(base, "NaN")))
        yield Probe("cohort_of_one", _question(_with_cohort(base, 1)))
    for moment, named in product(moments(source), ("default", *_mentioned(source))):
        base = _document(UNKNOWN_PURPOSE, moment)
        base["subject"] |= {"organisation": named, "roles": list(get_args(Role))}
        yield Probe("unknown_purpose", _question(base))
        base["job"]["project"] = named
        base["budget"]["project_quota"]["limited"] = True
        yield Probe("unknown_purpose", _question(base))


@lru_cache(maxsize=2)
def samples(source: str) -> tuple[Probe, ...]:
    """Ordinary jobs, cheap and dear: all engines must decide them, and alike."""
    return tuple(_samples(source))


def _samples(source: str) -> Iterator[Probe]:
    tried = purposes(source)[:MOST_SAMPLED]
    choices = product(tried, (1, 20, 500), (0.5, 1.1), (10, 300))
    for purpose, rounds, noise, cohort in choices:
        document = _with_cohort(_with_noise(_document(purpose, ORDINARY), noise), cohort)
        document["job"]["rounds"] = rounds
        priced = _costing(document, rounds * _EPSILON // 100)
        yield Probe(f"sample_{rounds}_{noise}_{cohort}", _question(priced))
    for purpose in tried:
        for moment in moments(source):
            yield from _occasions(_document(purpose, moment))
    for purpose, caller in product(tried, callers(source)):
        yield from _shares(caller.asking(_document(purpose, ORDINARY)))


def _occasions(base: dict[str, Any]) -> Iterator[Probe]:
    """One cheap job, asked for by everybody, at any price, again and at an odd hour.

    A rule that is undefined on one side of its limit shows itself only when both sides are asked.
    """
    cheap = _costing(base, 1)
    for role in get_args(Role):
        document = deepcopy(cheap)
        document["subject"]["roles"] = [role]
        yield Probe(f"sample_by_{role}", _question(document))
    for price in (_EPSILON // 1000, _EPSILON, _BUDGET):
        yield Probe(f"sample_for_{price}_nano", _question(_costing(base, price)))
    again = deepcopy(cheap)
    again["history"] = {
        "jobs_by_subject": 1,
        "charged_epsilon_nano_by_subject": 1,
        "last_job_time": "2026-01-05T08:00:00.000000Z",
    }
    yield Probe("sample_again", _question(again))
    at_night = deepcopy(cheap)
    moment = datetime(2026, 3, 7, 23, 30, tzinfo=UTC)
    at_night["request"] |= asked.moment_of(moment)
    yield Probe("sample_on_a_saturday_night", _question(at_night))


def _shares(base: dict[str, Any]) -> Iterator[Probe]:
    """One cheap job on a person's and a project's share: untouched, nearly and wholly used up.

    Where no share is set the budget stands for it, as in every question.
    """
    cheap = _costing(base, 1)
    yield Probe("sample_without_a_share", _question(cheap))
    for name, left in product(("quota", "project_quota"), (_BUDGET, _BUDGET // 100, 0)):
        document = deepcopy(cheap)
        share = {"limited": True, "epsilon_nano": _BUDGET, "remaining_epsilon_nano": left}
        document["budget"][name] = share
        yield Probe(f"sample_with_{left}_left_of_the_{name}", _question(document))


@dataclass(frozen=True, slots=True)
class Caller:
    """From which organisation, and for which project, a probe asks."""

    organisation: str
    project: str

    def asking(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document as this caller's."""
        document["subject"]["organisation"] = self.organisation
        document["job"]["project"] = self.project
        return document


def callers(source: str) -> list[Caller]:
    """Somebody from nowhere for no project, and from and for each that a policy may mean.

    Only what the policy reads is varied: another text of it changes no answer.
    """
    read, named = paths_read(source), _mentioned(source)

    def tried(*path: str) -> list[str]:
        return named if any(path[: len(prefix)] == prefix for prefix in read) else []

    usual = Caller("default", "")
    organisations = [replace(usual, organisation=name) for name in tried("subject", "organisation")]
    projects = [replace(usual, project=name) for name in tried("job", "project")]
    return [usual, *projects, *organisations][:MOST_CALLERS]


def purposes(source: str) -> list[str]:
    """Texts a policy mentions, tried as purposes; an unknown one when it mentions none."""
    return _mentioned(source) or [UNKNOWN_PURPOSE]


def moments(source: str) -> list[datetime]:
    """An ordinary moment, those a policy mentions, and a Wednesday morning either side of each."""
    found = {ORDINARY: None}
    for text in _mentioned(source):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            continue
        if moment.tzinfo is not None and 1970 < moment.year < 2200:
            morning = (moment - timedelta(days=moment.weekday() + 5)).replace(hour=10, minute=30)
            around = (moment, morning, morning + timedelta(days=14))
            found |= dict.fromkeys(each.astimezone(UTC) for each in around)
    return list(found)[:MOST_MOMENTS]


def _mentioned(source: str) -> list[str]:
    """The plain texts written in a policy, the first few, each once."""
    texts: dict[str, None] = {}
    significant = [token for token in tokens(source) if token.kind not in ("space", "comment")]
    for token, after in pairwise([*significant, None]):
        if token is None or (after is not None and after.text == ":"):
            continue  # the name of a member
        if token.kind in ("string", "raw") and 2 < len(token.text) < 80:
            texts[token.text[1:-1]] = None
    return [text for text in texts if "%" not in text and "\\" not in text][:MOST_PURPOSES]


def _document(purpose: str, moment: datetime) -> dict[str, Any]:
    """A modest job of a researcher on an untouched budget."""
    built = asked.build(
        request_id="probe",
        kind="train",
        at=moment,
        subject=asked.SubjectFacts("usr_probe", ("researcher",), "default"),
        dataset=asked.DatasetFacts("ds_probe", "pop_probe", 1000, "person"),
        job=_JOB if purpose == _JOB.purpose else replace(_JOB, purpose=purpose),
        cost=asked.CostFacts("probe", 1e-5, _EPSILON // 2, 0, _EPSILON // 2, _COMPUTE),
        budget=asked.BudgetFacts(_BUDGET, _BUDGET, 0),
        history=asked.HistoryFacts(),
        policy_id="probe",
        policy_version=0,
    )
    return deepcopy(dict(built.document))


_COMPUTE = asked.ComputeFacts(200, 10)
_JOB = asked.JobFacts(
    algorithm="dp_fedavg",
    purpose=UNKNOWN_PURPOSE,
    rounds=2,
    clients_per_round=100,
    noise_multiplier=1.1,
    clip_norm=1.0,
    local_epochs=1,
    outputs=("weights", "receipt"),
    model=asked.ModelFacts("0" * 64, ("Dense",), 7850),
)


def _question(document: dict[str, Any]) -> Question:
    return Question.of_document(document)


def _costing(base: dict[str, Any], price: int) -> dict[str, Any]:
    document = deepcopy(base)
    document["cost"]["epsilon_nano"] = price
    document["cost"]["budget_epsilon_nano_after"] = price
    return document


def _over_budget(base: dict[str, Any]) -> dict[str, Any]:
    return _costing(base, 10 * _BUDGET)


def _with_noise(base: dict[str, Any], noise: float | str) -> dict[str, Any]:
    document = deepcopy(base)
    document["job"]["noise_multiplier"] = noise
    ppm = noise if isinstance(noise, str) else round(noise * asked.PPM)
    document["derived"]["noise_multiplier_ppm"] = ppm
    return document


def _with_cohort(base: dict[str, Any], cohort: int) -> dict[str, Any]:
    document = deepcopy(base)
    document["job"]["clients_per_round"] = cohort
    document["derived"]["sampling_rate_ppm"] = cohort * asked.PPM // 1000
    return document
