"""The second reading by a real `opa check`: types, names and functions, with place and hint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.activation import examine
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.errors import EngineFailed, Fault
from policies.strict import StrictReader, reader
from tests.support.questions import EXAMPLES, example


@pytest.fixture
def strict(opa_binary: str) -> StrictReader:
    return StrictReader(Path(opa_binary))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_and_the_library_read_clean(strict: StrictReader, name: str) -> None:
    assert strict.check(*example(name)).items == ()


POLICY = 'package p\n\n%s\n\ndecision := {"allow": x, "deny": set()}\n'


@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [
        ("x if input.job.roundss > 1", "rego_type_error", "undefined ref: input.job.roundss"),
        ('x if startswith(input.job.rounds, "1")', "rego_type_error", "invalid argument"),
        ("x if time.now_ns() > 1", "rego_type_error", "undefined function time.now_ns"),
        ('x if http.send({"url": "", "method": "get"})', "rego_type_error", "http.send"),
        ("x if opa.runtime().env", "rego_type_error", "opa.runtime"),
        ('x if $"{input.job.rounds}" == "1"', "rego_parse_error", "template strings"),
        ("x if { y := 1; true }", "rego_compile_error", "y unused"),
        ("x := x", "rego_recursion_error", "recursive"),
        ("x if {", "rego_parse_error", ""),
    ],
)
def test_what_opa_refuses_has_code_and_line(
    strict: StrictReader, rule: str, code: str, said: str
) -> None:
    found = strict.check(POLICY % rule).errors
    assert found
    assert found[0].code == code
    assert said in found[0].message
    assert found[0].line >= 3


def test_a_fault_in_the_tests_is_told_of_the_tests(strict: StrictReader) -> None:
    tests = "package p_test\n\nimport data.p\n\ntest_x if p.decision.allow with input.jobb as {}\n"
    (first, *_) = strict.check(POLICY % "x := true", tests + "\ny := z\n").errors
    assert first.module == "tests"


def test_a_typo_comes_with_what_is_known_there(strict: StrictReader) -> None:
    (first, *_) = strict.check(POLICY % "x if input.job.roundss > 1").errors
    assert "rounds" in first.hint


@pytest.fixture
def both(strict: StrictReader) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(1, strict=strict)
    yield engine
    engine.close()


def test_a_type_error_that_the_profile_lets_pass_keeps_a_revision_out(
    both: EmbeddedEngine, embedded: EmbeddedEngine
) -> None:
    source = (
        "package p\n\nimport data.gateway.answer\nimport data.gateway.people\n\n"
        'deny contains people.purpose_in({"a"})\n\n'
        'deny contains 1 if startswith(input.job.rounds, "1")\n\ndecision := answer.plain(deny)\n'
    )
    assert embedded.check(source).clean
    revision = Revision.of_text(source, "package t\n\ntest_yes if true\n")
    (problem, *_) = examine([both], revision).problems
    assert "line 8" in problem.message
    assert "rego_type_error" in problem.message


@pytest.mark.parametrize(
    ("program", "fault"),
    [("/nowhere/opa", Fault.UNREACHABLE), ("/bin/false", Fault.CRASHED)],
)
def test_a_program_that_does_not_work_is_no_clean_reading(program: str, fault: Fault) -> None:
    with pytest.raises(EngineFailed) as failed:
        StrictReader(Path(program)).check(POLICY % "x := true")
    assert failed.value.fault is fault


def test_a_late_reading_has_failed(opa_binary: str) -> None:
    with pytest.raises(EngineFailed, match="in time"):
        StrictReader(Path(opa_binary), seconds=0.001).check(POLICY % "x := true")


def test_a_program_that_is_named_is_taken_before_the_path(tmp_path: Path) -> None:
    assert reader(tmp_path / "opa") == StrictReader(tmp_path / "opa")


def _answering(folder: Path, opa: str, answer: str) -> StrictReader:
    """A program that knows its capabilities and answers every check alike."""
    (folder / "answer").write_text(answer, encoding="utf-8")
    program = folder / "opa"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = capabilities ]; then exec {opa} "$@"; fi\n'
        f"cat {folder / 'answer'}\nexit 1\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return StrictReader(program)


@pytest.mark.parametrize(
    "answer", ["", "not JSON", "{}", "[1]", '"errors"', '{"errors": 3}', '{"errors": [1]}']
)
def test_a_failure_in_no_known_form_is_no_reading(
    tmp_path: Path, opa_binary: str, answer: str
) -> None:
    with pytest.raises(EngineFailed) as failed:
        _answering(tmp_path, opa_binary, answer).check(POLICY % "x := true")
    assert failed.value.fault is Fault.CRASHED


def test_a_fault_that_says_little_is_a_fault_all_the_same(tmp_path: Path, opa_binary: str) -> None:
    answer = (
        '{"errors": [{}, {"message": "m", "code": "c", "details": {"oneOf": "x"}},'
        ' {"message": "' + "m" * 600 + '", "location": {"file": "policy_test.rego", "row": 2}}]}'
    )
    bare, told, far = _answering(tmp_path, opa_binary, answer).check(POLICY % "x := true").items
    assert (bare.severity, bare.code, bare.line) == ("error", "rego_compile_error", 0)
    assert (told.code, told.message, told.hint, told.module) == ("c", "m", "", "policy")
    assert (len(far.message), far.line, far.module) == (500, 2, "tests")
