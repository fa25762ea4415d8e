"""One byte string per value; a parser that refuses what parsers disagree on."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_gateway import canonical
from privacy_gateway.errors import Refused

_leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20)
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


@given(_values)
def test_what_is_written_is_read_back_the_same(value: object) -> None:
    assert canonical.loads_strict(canonical.dumps(value)) == value


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(members: dict[str, int]) -> None:
    turned = dict(reversed(list(members.items())))
    assert canonical.digest(members) == canonical.digest(turned)


@given(
    st.dictionaries(st.text(max_size=5), _values | st.floats(allow_nan=False, allow_infinity=False))
)
def test_an_object_joined_of_its_members_is_the_object(value: dict[str, object]) -> None:
    parts = canonical.members(value, floats=True)
    turned = dict(reversed(list(parts.items())))
    assert canonical.joined(turned) == canonical.dumps(value, floats=True)


def test_no_member_may_hold_a_float_where_none_is_allowed() -> None:
    with pytest.raises(TypeError):
        canonical.members({"a": [1, {"b": 0.5}]})
    with pytest.raises(TypeError):
        canonical.members({"a": 0.5})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"noise_multiplier": NaN}', "noise_multiplier"),
        (b'{"noise_multiplier": Infinity}', "noise_multiplier"),
        (b'{"noise_multiplier": -Infinity}', "noise_multiplier"),
        (b'{"noise_multiplier": 1e400}', "noise_multiplier"),
        (b'{"rounds": 1, "rounds": 2}', "rounds"),
        (b'{"a": {"z": 1, "z": 1}}', "z"),
        (b"[" * 40 + b"]" * 40, "body"),
        (b'{"rounds": 1' + b"0" * 400 + b"}", "rounds"),
        (b'{"algorithm": {"clip_norm": NaN}}', "algorithm.clip_norm"),
        (b'{"layers": [{"units": 1}, {"units": -Infinity}]}', "layers[1].units"),
        (b"NaN", "body"),
        (b"\xff", "body"),
        (b"{", "body"),
        (b"", "body"),
    ],
)
def test_what_parsers_disagree_on_is_refused_by_name(text: bytes, field: str) -> None:
    with pytest.raises(Refused) as refusal:
        canonical.loads_strict(text)
    assert refusal.value.code == "invalid_request"
    assert [error.field for error in refusal.value.errors] == [field]


def test_brackets_inside_strings_are_no_nesting() -> None:
    text = json.dumps({"a": "[" * 100 + '\\"' + "{" * 100}).encode()
    assert canonical.loads_strict(text)["a"].startswith("[[[")


def test_a_body_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Refused) as refusal:
        canonical.loads_strict(b" " * 101, max_bytes=100)
    assert refusal.value.code == "too_large"


@pytest.mark.parametrize("value", [0.5, {"a": [1.0]}, float("nan")])
def test_floats_have_no_place_in_a_hash(value: object) -> None:
    with pytest.raises(TypeError):
        canonical.dumps(value)
