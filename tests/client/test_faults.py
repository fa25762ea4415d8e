"""Refused bodies: every fault under the name that the sender used, in words about JSON."""

from __future__ import annotations

from typing import Any

import pytest

from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest, QuoteRequest, parse
from privacy_gateway.views import DryRun

JOB: dict[str, Any] = {
    "dataset": "ds_1",
    "purpose": "research",
    "algorithm": {"name": "dp_fedsgd"},
    "rounds": 2,
    "clients_per_round": 10,
    "noise_multiplier": 2.0,
    "model": {"architecture": {"input": {"shape": [2]}, "layers": [{"type": "Flatten"}]}},
}


def faults_of(model: Any, body: Any) -> dict[str, str]:
    with pytest.raises(Refused) as caught:
        parse(model, body)
    return {fault.field: fault.message for fault in caught.value.errors}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"algorithm": {"name": "dp_fedsgd", "clip_norm": "big"}}, "algorithm.clip_norm", "adapt"),
        ({"algorithm": {"name": "dp_fedsgd", "clip_norm": 0}}, "algorithm.clip_norm", "than 0"),
        ({"model": None}, "model", "JSON object"),
        ({"outputs": []}, "outputs", "at least 1 members, not 0"),
        ({"metrics": "accuracy"}, "metrics", "JSON array"),
        ({"epsilon": 1.0}, "epsilon", "is not a member"),
        ({"Epsilon": 1.0}, "Epsilon", "is not a member"),
    ],
)
def test_a_fault_has_the_senders_name_and_no_word_of_python(
    change: dict[str, Any], field: str, words: str
) -> None:
    faults = faults_of(JobRequest, JOB | change)
    assert list(faults) == [field]
    assert words in faults[field]
    for told in ("dictionary", "instance", "Tuple", "tuple", "literal[", "constrained"):
        assert told not in f"{faults}"


def test_a_body_that_is_no_object_is_called_so() -> None:
    assert faults_of(QuoteRequest, []) == {"body": "must be a JSON object"}
    assert faults_of(QuoteRequest, {}) == {"job": "is missing"}


def test_the_detail_says_of_each_field_what_is_wrong_with_it() -> None:
    body = {name: value for name, value in JOB.items() if name not in ("dataset", "purpose")}
    with pytest.raises(Refused) as caught:
        parse(JobRequest, body | {"dataset_id": "ds_1"})
    assert caught.value.detail == (
        "dataset, purpose: is missing; dataset_id: is not a member of what is asked here"
    )


def test_of_two_ways_to_say_a_job_the_nearer_one_is_told() -> None:
    assert list(faults_of(DryRun, {"job": JOB | {"rounds": 0}})) == ["job.rounds"]
    assert list(faults_of(DryRun, {"job": 3})) == ["job"]


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({"name": "sgd", "learning_rate": 1.0, "momentum": 0.9}, "momentum"),
        ({"momentum": 0.5}, "momentum"),
        ({"name": "sgd", "momentum": 0.0}, "sgd"),
        ({"name": "sgd"}, "sgd"),
        ({"name": "yogi", "momentum": 0.9}, "yogi"),
    ],
)
def test_a_momentum_is_never_left_aside(asked: dict[str, Any], taken: str) -> None:
    algorithm = {"name": "dp_fedsgd", "server_optimizer": asked}
    request = parse(JobRequest, JOB | {"algorithm": algorithm})
    assert request.algorithm.server_optimizer.name == taken
    assert request.algorithm.server_optimizer.momentum == asked.get("momentum")
