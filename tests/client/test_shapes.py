"""The fast way of reading canonical lines answers what the slow way answers, or less."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gateway import canonical, shapes
from privacy_gateway.shapes import (
    MAX_SHAPES,
    MAX_SPAN_BYTES,
    MAX_SPANS,
    NotCanonical,
    Shapes,
    read_slowly,
)

TEXT = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", "\\u0061", "\x7f", "é", "\u2028", "a:", ""]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(10**30), 10**30) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LEAF = (
    b'{"a":[1,22,-3],"at":1795313577774129,"b":true,"facts":{"actor":"usr_1","n":null},'
    b'"kind":"charge","seq":7}'
)
# A charge, whose members from `cost` to `population` are remembered; with every trap for the cut.
CHARGE = (
    b'{"at":1795313577774129,"balance":{"charged":[5,6],"frozen":false},"cost":[1,2],'
    b'"facts":{"cost":[1],"population":"p"},"kind":"charge","mechanism":{"kind":"gaussian"},'
    b'"per_round":[1,2],"population":"pop_1","rounds":1,"seq":7}'
)
# What a mutation likes to put: every way to say something twice, otherwise, or wrongly.
PIECES = [
    b" ", b"\n", b"0", b"1", b"-", b"-0", b"00", b"1.0", b"1e3", b"NaN", b"Infinity", b"true",
    b"false", b"null", b'"', b"\\", b'\\u0061', b"\x00", b"\x7f", b"\xc3\xa9", b"\xff", b",", b":",
    b"[", b"]", b"{", b"}", b'"a":1,', b'"kind":"charge",', b"9999999999999999999",
    b"99999999999999999999", b"a", b"z", b"", b',"cost":[1,2]', b',"population":"p"',
]  # fmt: skip


def outcome(read: Any, data: bytes) -> tuple[str, Any]:
    """What a way of reading says; text of the value, because true equals 1 to Python."""
    try:
        return "value", json.dumps(read(data), sort_keys=True)
    except NotCanonical as flaw:
        return "flaw", flaw.flaw


@given(VALUES, VALUES)
def test_both_ways_agree_on_values_of_any_shape(first: Any, second: Any) -> None:
    known = Shapes()
    for value in (first, second, first):
        data = canonical.dumps(value)
        assert outcome(known.read, data) == outcome(read_slowly, data)


@settings(max_examples=400)
@given(st.data(), st.sampled_from([LEAF, CHARGE]))
def test_both_ways_agree_on_mutated_lines(data: st.DataObject, honest: bytes) -> None:
    """The shape of the honest line is known, so whatever still matches it is read fast."""
    known = Shapes()
    for _ in range(2):
        known.read(honest)
    line = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line)))
        width = data.draw(st.integers(0, 3))
        line[at : at + width] = data.draw(st.sampled_from(PIECES) | st.binary(max_size=2))
    assert outcome(known.read, bytes(line)) == outcome(read_slowly, bytes(line))


@given(st.dictionaries(st.sampled_from("abcd"), st.integers() | TEXT, min_size=1))
def test_other_values_of_a_known_shape_are_read_fast_and_right(values: dict[str, Any]) -> None:
    known = Shapes()
    known.read(canonical.dumps({name: type(value)() for name, value in values.items()}))
    data = canonical.dumps(values)
    assert repr(known.read(data)) == repr(json.loads(data))


def test_a_known_shape_is_not_parsed_by_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Shapes()
    known.read(LEAF)
    monkeypatch.setattr(shapes, "read_slowly", lambda _: pytest.fail("the slow way was taken"))
    assert known.read(LEAF.replace(b"usr_1", b"usr_2"))["facts"]["actor"] == "usr_2"


@given(st.text(max_size=8), st.integers(), st.integers(1, 3), TEXT)
def test_what_a_job_repeats_is_read_once_and_stands_only_where_it_stood(
    kind: str, number: int, times: int, behind: str
) -> None:
    known = Shapes()
    value = json.loads(CHARGE) | {"kind": kind}
    for step in range(times + 1):
        entry = value | {"at": number + step, "rounds": step}
        assert known.read(canonical.dumps(entry)) == entry
    # The same bytes elsewhere: inside another member, or behind one they must stand before.
    span = canonical.dumps(value)
    span = span[span.index(b',"cost"') : span.rindex(b',"population"')]
    nested = canonical.dumps({"a": {"b": 1} | value, "z": behind})
    misplaced = b'{"at":1,"population":"p"' + span + b"}"
    for data in (nested, misplaced, b'{"at":1' + span + span + b',"population":"p"}'):
        assert outcome(known.read, data) == outcome(read_slowly, data)


def test_what_is_remembered_has_a_bound() -> None:
    known = Shapes()
    for number in range(MAX_SPANS + 10):
        data = CHARGE.replace(b'"kind":"charge"', b'"kind":"%d"' % number)
        assert known.read(data)["kind"] == str(number)
    assert len(known._spans) <= MAX_SPANS
    long = CHARGE.replace(b'"gaussian"', b'"%s"' % (b"g" * MAX_SPAN_BYTES))
    before = len(known._spans)
    assert known.read(long)["mechanism"]["kind"] == "g" * MAX_SPAN_BYTES
    assert len(known._spans) == before


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (b'{"a":1.5}', "number"),
        (b'{"a":1e3}', "number"),
        (b'{"a":-0}', "number"),
        (b'{"a":NaN}', "number"),
        (b'{"a":-Infinity}', "number"),
        (b'{"a":[true]}', "number"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":{"b":1,"b":2}}', "duplicate_key"),
        (b'{"b":1,"a":1}', "encoding"),
        (b'{"a": 1}', "encoding"),
        (b'{"a":"\\u0061"}', "encoding"),
        (b'{"a":01}', "encoding"),
        (b"\xff", "encoding"),
        (b"[" * 100_000, "encoding"),
        (b"", "encoding"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, flaw: str) -> None:
    with pytest.raises(NotCanonical) as refused:
        read_slowly(data)
    assert refused.value.flaw == flaw


def test_a_hostile_export_cannot_make_it_learn_for_ever() -> None:
    known = Shapes()
    for number in range(MAX_SHAPES + 10):
        known.read(b'{"key%d":1}' % number)
    assert len(known) == MAX_SHAPES
