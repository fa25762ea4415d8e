"""Moving a policy into its own package changes its references and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.text import TextRefused, moved, package_of, rules_of_tests, tokens


def test_package_and_references_move_and_lines_stay() -> None:
    source = """# data.comment
package owner.course

import data.gateway.bounds
import data.owner.other as o

x := "data.string" # data.comment
y := `data.raw`
z := input.data.x + data.owner.course.x + data["owner"].q
"""
    text = moved(source, "revisions.r1", "library.l1")
    assert (
        text
        == """# data.comment
package revisions.r1.owner.course

import data.library.l1.gateway.bounds
import data.revisions.r1.owner.other as o

x := "data.string" # data.comment
y := `data.raw`
z := input.data.x + data.revisions.r1.owner.course.x + data.revisions.r1["owner"].q
"""
    )


@given(st.text())
def test_tokens_give_the_text_back(text: str) -> None:
    assert "".join(token.text for token in tokens(text)) == text


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("package a", "a"),
        ("# c\n\npackage a.b_c.d1\nx := 1", "a.b_c.d1"),
        ("package a\n[1]", None),
        ("package a # c\nx := 1", "a"),
    ],
)
def test_package_of(source: str, package: str | None) -> None:
    if package is None:
        with pytest.raises(TextRefused):
            package_of(source)
    else:
        assert package_of(source) == package


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("", 1, 1),
        ("x := 1", 1, 1),
        ('package a["b"]', 1, 9),
        ("package gateway.bounds", 1, 9),
        ("package gateway_envelope", 1, 9),
        ("package system.authz", 1, 9),
        ("package a\nx := data", 2, 6),
        ("package a\nx := data[input.job.purpose]", 2, 6),
        ("package a\nx := {k | some k in data}", 2, 21),
    ],
)
def test_what_cannot_be_moved_safely_is_refused_with_its_place(
    source: str, line: int, column: int
) -> None:
    with pytest.raises(TextRefused) as refused:
        moved(source, "r", "l")
    assert (refused.value.line, refused.value.column) == (line, column)


def test_only_rules_are_tests() -> None:
    source = """package a
# test_comment
test_one if { test_inner := 1; test_inner == 1 }
x := "test_text"
y := {
test_key: 1 | test_key := 2 }
test_two := true
"""
    assert rules_of_tests(source) == ("test_one", "test_two")
