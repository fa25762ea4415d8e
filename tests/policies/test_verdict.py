"""Decoding is strict: one mutation of a valid allow is never an allow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.errors import Fault, Undecided
from policies.verdict import Approval, Denial, Obligations, Verdict, decode

ALLOW = {"allow": True, "deny": [], "approvals": [], "obligations": []}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text(min_size=1, max_size=20).filter(lambda text: text != "<undefined>")
denials = st.fixed_dictionaries(
    {
        "code": st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
        "field": names,
        "message": names,
        "limit": st.none() | st.integers(-10, 10**18) | names,
    }
)
approvals = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["owner", "auditor"]),
        "count": st.integers(1, 5),
        "within_hours": st.integers(1, 100),
    }
)
obligations = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("outputs"),
            "value": st.lists(st.sampled_from(["weights", "receipt"]), max_size=2),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("max_parallel_jobs"), "value": st.integers(1, 100)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("release_delay_hours"), "value": st.integers(0, 1000)},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("isolation"),
            "value": st.sampled_from(["per_job", "per_client_group"]),
        }
    ),
)
answers = st.fixed_dictionaries(
    {
        "allow": st.booleans(),
        "deny": st.lists(denials, max_size=4),
        "approvals": st.lists(approvals, max_size=3),
        "obligations": st.lists(obligations, max_size=4),
    }
)


def outcome(raw: Any) -> str:
    """The outcome, or the fault that stands in its place."""
    try:
        return decode(raw).outcome
    except Undecided as undecided:
        return str(undecided.fault)


@given(answers)
def test_the_three_outcomes_follow_the_rule(answer: dict[str, Any]) -> None:
    verdict = decode(answer)
    if not answer["allow"] or answer["deny"]:
        assert verdict.outcome == "deny"
        assert verdict.denials
    elif answer["approvals"]:
        assert verdict.outcome == "needs_approval"
        assert verdict.approvals
    else:
        assert verdict.outcome == "allow"


@given(json_values)
def test_nothing_but_a_decision_allows(value: Any) -> None:
    assume(not isinstance(value, dict) or "allow" not in value)
    assert outcome(value) in ("undefined", "malformed")


@given(answers, json_values)
def test_an_allow_that_is_not_a_boolean_is_refused(answer: dict[str, Any], value: Any) -> None:
    assume(not isinstance(value, bool))
    assert outcome(answer | {"allow": value}) in ("malformed", "undefined")


@given(answers, st.text(min_size=1), json_values)
def test_an_unknown_member_is_refused(answer: dict[str, Any], name: str, value: Any) -> None:
    assume(name not in ALLOW)
    assert outcome(answer | {name: value}) in ("malformed", "undefined")


@given(st.sampled_from(["deny", "approvals", "obligations"]), json_values)
def test_a_member_that_is_not_a_set_of_the_right_things_never_allows(name: str, value: Any) -> None:
    assume(value != [])
    assert outcome(ALLOW | {name: value}) != "allow"


@given(answers, st.randoms())
def test_order_and_repetition_do_not_matter(answer: dict[str, Any], random: Any) -> None:
    shuffled = {
        name: random.sample(value * 2, len(value) * 2) if isinstance(value, list) else value
        for name, value in answer.items()
    }
    assume(all(len(value) <= 16 for value in shuffled.values() if isinstance(value, list)))
    assert decode(shuffled) == decode(answer)


@pytest.mark.parametrize("value", [None, "<undefined>"])
def test_undefined_is_no_decision(value: Any) -> None:
    assert outcome(value) == "undefined"


@pytest.mark.parametrize(
    "answer",
    [
        {"allow": "<undefined>", "deny": []},
        {"allow": True, "deny": "<undefined>"},
        {"allow": True, "deny": [], "obligations": ["<undefined>"]},
        {
            "allow": False,
            "deny": [{"code": "a", "field": "f", "message": "<undefined>", "limit": 1}],
        },
    ],
)
def test_undefined_inside_an_answer_is_no_decision(answer: Any) -> None:
    assert outcome(answer) == "undefined"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"allow": True},
        {"deny": []},
        {"allow": 1, "deny": []},
        {"allow": "true", "deny": []},
        {"allow": True, "deny": None},
        {"allow": True, "deny": {}},
        {"allow": True, "deny": [[]]},
        {"allow": True, "deny": [], "approvals": [{"role": "owner", "count": 1}]},
        {
            "allow": True,
            "deny": [],
            "approvals": [{"role": "owner", "count": True, "within_hours": 1}],
        },
        {
            "allow": True,
            "deny": [],
            "approvals": [{"role": "nobody", "count": 1, "within_hours": 1}],
        },
        {
            "allow": True,
            "deny": [],
            "approvals": [{"role": "owner", "count": 0, "within_hours": 1}],
        },
        {"allow": True, "deny": [], "obligations": [{"type": "max_parallel_jobs", "value": 1.5}]},
        {"allow": True, "deny": [], "obligations": [{"type": "outputs", "value": "weights"}]},
        {"allow": True, "deny": [], "obligations": [{"type": "outputs"}]},
        {
            "allow": False,
            "deny": [{"code": "Not Lower", "field": "f", "message": "m", "limit": 1}],
        },
        {"allow": False, "deny": [{"code": "a", "field": "", "message": "m", "limit": 1}]},
        {"allow": False, "deny": [{"code": "a", "field": "f", "message": "m", "limit": {}}]},
        [],
        True,
        "allow",
        1,
    ],
)
def test_wrong_forms_are_refused(answer: Any) -> None:
    assert outcome(answer) == "malformed"


@pytest.mark.parametrize(
    "obligation",
    [
        {"type": "delete_data", "value": True},
        {"type": ["outputs"], "value": []},
        {"type": "outputs", "value": ["weights", "raw_updates"]},
        {"type": "isolation", "value": "none"},
    ],
)
def test_an_unknown_obligation_has_its_own_fault(obligation: Any) -> None:
    answer = ALLOW | {"obligations": [obligation]}
    assert outcome(answer) == Fault.UNKNOWN_OBLIGATION


def test_obligations_combine_to_the_strictest() -> None:
    answer = ALLOW | {
        "obligations": [
            {"type": "outputs", "value": ["weights", "receipt"]},
            {"type": "outputs", "value": ["receipt", "dp_metrics"]},
            {"type": "max_parallel_jobs", "value": 3},
            {"type": "max_parallel_jobs", "value": 2},
            {"type": "release_delay_hours", "value": 1},
            {"type": "release_delay_hours", "value": 24},
            {"type": "isolation", "value": "per_client_group"},
            {"type": "isolation", "value": "per_job"},
        ]
    }
    assert decode(answer).obligations == Obligations(
        frozenset({"receipt"}), 2, 24, "per_client_group"
    )


def test_a_bare_no_is_a_denial_with_a_reason() -> None:
    verdict = decode({"allow": False, "deny": []})
    assert verdict.outcome == "deny"
    assert [denial.code for denial in verdict.denials] == ["not_allowed"]


def test_engines_print_whole_floats_differently_and_compare_equal() -> None:
    def answer(limit: float) -> Verdict:
        denial = {"code": "a", "field": "f", "message": "m", "limit": limit}
        return decode({"allow": False, "deny": [denial]})

    assert answer(2.0) == answer(2)
    assert answer(2.0).denials == (Denial("a", "f", "m", 2),)


def test_needs_approval_carries_who_must_agree() -> None:
    approval = {"role": "owner", "count": 2, "within_hours": 72}
    verdict = decode(ALLOW | {"approvals": [approval]})
    assert verdict.approvals == (Approval("owner", 2, 72),)
    assert not verdict.allowed


def test_a_flood_of_denials_is_refused() -> None:
    flood = [
        {"code": f"c{number}", "field": "f", "message": "m", "limit": 1} for number in range(201)
    ]
    assert outcome({"allow": False, "deny": flood}) == "malformed"
