"""The language profile: what is refused, where, and what is let in."""

from __future__ import annotations

import pytest

from policies.embedded import EmbeddedEngine
from tests.support.questions import example

HEADER = "package owner.rules\n\nimport data.gateway.bounds\nimport data.gateway.approvals\n"
DECISION = "\ndecision := {}\n"


def errors(engine: EmbeddedEngine, body: str, tests: str = "") -> list[tuple[str, int, int]]:
    """Code, line and column of each error in a policy whose body starts on line 5."""
    findings = engine.check(HEADER + body + DECISION, tests).errors
    return [(item.code, item.line, item.column) for item in findings]


@pytest.mark.parametrize(
    ("body", "code", "column"),
    [
        ('x := http.send({"url": "http://127.0.0.1"})', "forbidden_builtin", 6),
        ("x := opa.runtime()", "forbidden_builtin", 6),
        ("x := time.now_ns()", "forbidden_builtin", 6),
        ('x := rand.intn("a", 3)', "forbidden_builtin", 6),
        ('x := uuid.rfc4122("a")', "forbidden_builtin", 6),
        ('x := net.lookup_ip_addr("a")', "forbidden_builtin", 6),
        ('x := io.jwt.decode("a")', "forbidden_builtin", 6),
        ('x := rego.parse_module("a", "b")', "forbidden_builtin", 6),
        ('x if trace("a")', "forbidden_builtin", 6),
        ('x if print("a")', "forbidden_builtin", 6),
        ('x := {y | y := json.unmarshal("1")}', "forbidden_builtin", 16),
        ("x contains http.send({}) if true", "forbidden_builtin", 12),
        ("x := 1 if not opa.runtime()", "forbidden_builtin", 15),
        ("x if { every y in [opa.runtime()] { y } }", "forbidden_builtin", 20),
        ("x := no_such(1)", "unknown_function", 6),
        ("x := bounds.no_such(1)", "unknown_function", 6),
        ("x := input.job.noise_multipler", "unknown_input_path", 6),
        ('x := input["job"].rond', "unknown_input_path", 6),
        ("x := input.job.rounds.more", "unknown_input_path", 6),
        ("x if { job := input.job; job.rond > 3 }", "unknown_input_path", 26),
        ('x := object.get(input.job, "rond", 0)', "unknown_input_path", 6),
        ('x := object.get(input, ["job", "rond"], 0)', "unknown_input_path", 6),
        ("x := [1 | input.subject.roles[_].name]", "unknown_input_path", 11),
        ("x := data.other.rules", "unknown_reference", 6),
        ("x := data.owner.rules.typo", "unknown_reference", 6),
        ("x := bounds.typo", "unknown_reference", 6),
        ("f(x) := f(x + 1)", "recursion", 1),
        ("x := data.owner.rules.x", "recursion", 1),
        ("x if { input := 3; input == 3 }", "syntax", 14),
        ('x := $"{input.job.rounds}"', "syntax", 6),
        ("x := {1 ==}", "syntax", 11),
        ("x if y with input.job as {}\n\ny := 1", "with", 8),
        ("x := {1 | y with input.job as {}}\n\ny := 1", "with", 13),
        ('x contains approvals.by("owner", 2, 48)', "approval_impossible", 12),
        ('x contains {"role": "owner", "count": 3, "within_hours": 1}', "approval_impossible", 13),
        ('x contains approvals.by_above(1, "owner", 2, 48)', "approval_impossible", 12),
    ],
)
def test_refused_with_line_and_column(
    embedded: EmbeddedEngine, body: str, code: str, column: int
) -> None:
    assert (code, 5, column) in errors(embedded, body)


def test_people_there_can_be_many_of_may_be_many(embedded: EmbeddedEngine) -> None:
    demands = 'approvals.by("owner", 1, 48), approvals.by("auditor", 2, 48)'
    assert errors(embedded, f"x := {{{demands}}}") == []


def test_mutual_recursion_is_found_at_every_rule(embedded: EmbeddedEngine) -> None:
    found = errors(embedded, "a := b\n\nb if c\n\nc := a")
    assert found == [("recursion", 5, 1), ("recursion", 7, 1), ("recursion", 9, 1)]


def test_two_defaults_are_one_too_many(embedded: EmbeddedEngine) -> None:
    assert errors(embedded, "default x := 1\n\ndefault x := 2") == [("duplicate_default", 7, 1)]


def test_a_policy_needs_a_decision(embedded: EmbeddedEngine) -> None:
    findings = embedded.check("package p\n\nx := 1\n").errors
    assert [item.code for item in findings] == ["missing_decision"]


def test_imports_are_of_the_library_only(embedded: EmbeddedEngine) -> None:
    source = "package p\n\nimport input.job\nimport data.gateway.nothing\n\ndecision := {}\n"
    found = [(item.code, item.line) for item in embedded.check(source).errors]
    assert ("import", 3) in found
    assert ("unknown_reference", 4) in found


def test_columns_count_characters(embedded: EmbeddedEngine) -> None:
    assert errors(embedded, 'x := ["ééé", opa.runtime()]') == [("forbidden_builtin", 5, 14)]


def test_tests_are_held_to_the_same_profile(embedded: EmbeddedEngine) -> None:
    tests = "package owner.rules_test\n\ntest_a if http.send({})\n"
    findings = embedded.check(HEADER + DECISION, tests).errors
    assert [(item.code, item.module, item.line) for item in findings] == [
        ("forbidden_builtin", "tests", 3)
    ]


def test_a_syntax_error_in_the_tests_says_so(embedded: EmbeddedEngine) -> None:
    findings = embedded.check(HEADER + DECISION, "package t\n\ntest_a if {").errors
    assert findings[0].code == "syntax"
    assert findings[0].module == "tests"


def test_float_arithmetic_and_verbs_are_warnings(embedded: EmbeddedEngine) -> None:
    source = HEADER + 'x := 1.5 * 2\n\ny := 3 / 2\n\nz := sprintf("%d", [1])\n' + DECISION
    findings = embedded.check(source)
    assert findings.clean
    assert [(item.code, item.line) for item in findings.items] == [
        ("float_arithmetic", 5),
        ("float_arithmetic", 7),
        ("sprintf_verb", 9),
    ]


@pytest.mark.parametrize(
    "body",
    [
        "x := input.job.noise_multiplier * 2",
        "x if { job := input.job; job.noise_multiplier + 1 > 2 }",
        "job := input.job\n\nx := 3 - job.clip_norm",
        "x := 1 + input.cost.delta",
    ],
)
def test_arithmetic_with_what_need_not_be_whole_is_a_warning(
    embedded: EmbeddedEngine, body: str
) -> None:
    findings = embedded.check(HEADER + body + DECISION)
    assert findings.clean
    assert [item.code for item in findings.items] == ["float_arithmetic"]
    assert "millionths" in findings.items[0].hint


def test_arithmetic_with_whole_numbers_is_no_warning(embedded: EmbeddedEngine) -> None:
    body = "x := input.cost.epsilon_nano * 2\n\ny := input.derived.noise_multiplier_ppm + 1\n"
    assert embedded.check(HEADER + body + DECISION).items == ()


def test_a_template_string_is_refused_with_the_way_to_write_it(embedded: EmbeddedEngine) -> None:
    (found,) = embedded.check(HEADER + 'x := $"{input.job.rounds}"' + DECISION).errors
    assert "sprintf" in found.hint
    (other,) = embedded.check(HEADER + "x := {1 ==}" + DECISION).errors
    assert "sprintf" not in other.hint


@pytest.mark.parametrize(
    "body",
    [
        "x := {1 | some",
        "x if x",
        "default x := 1\n\ndefault x := 2",
        "x := http.send({})",
        "x := no_such(1)",
        "x := input.job.rond",
        "x := bounds.typo",
        "x if y with input.job as {}\n\ny := 1",
        "data := 3",
    ],
)
def test_every_error_has_a_place_and_a_hint(embedded: EmbeddedEngine, body: str) -> None:
    errors = embedded.check(HEADER + body + DECISION).errors
    assert errors
    assert all(item.line and item.column and item.hint for item in errors), errors


@pytest.mark.parametrize(
    "body",
    [
        "x if { some role in input.subject.roles; role == input.job.purpose }",
        "x if { some k, v in input.job; v == k }",
        "job := input.job\n\nx if job.rounds < 3",
        "x := [l | l := input.job.model.layers[_]]",
        "rounds(rounds) := rounds + 1\n\nx := rounds(2)",
        "x if input.budget.quota.remaining_epsilon_nano > input.cost.epsilon_nano",
        "x := max({count(input.dataset.tags), 2})",
        'x if startswith(lower(input.job.purpose), "re")',
        "x := bounds.rounds_at_most(3)",
        "x := data.gateway.bounds.rounds_at_most(3)",
        "x if { every layer in input.job.model.layers { layer in {1} } }",
    ],
)
def test_ordinary_rego_is_clean(embedded: EmbeddedEngine, body: str) -> None:
    assert errors(embedded, body) == []


@pytest.mark.parametrize("name", ["price_cap", "university_course"])
def test_the_examples_are_without_any_remark(embedded: EmbeddedEngine, name: str) -> None:
    assert embedded.check(*example(name)).items == ()


def test_the_hint_names_what_was_meant(embedded: EmbeddedEngine) -> None:
    findings = embedded.check(HEADER + "x := input.job.noise_multipler\n" + DECISION).errors
    assert findings[0].hint == "did you mean noise_multiplier?"
