r"""Reading canonical JSON fast: a line of a known shape needs no second serialisation.

The slow way to know that bytes are canonical is to parse them and to write the value again. A
ledger has a few shapes of entry only, so each line that passed the slow way leaves its shape
behind: a pattern with every key, bracket and comma as it stood, and in place of the values

    an integer      0 | -?[1-9][0-9]{0,18}
    a string        "[ !#-\\[\\]-~]*"           printable ASCII, nothing that could be escaped
    true, false     either

What matches is canonical too, because `json` writes each of those values in exactly one way and
the keys, being the same, are sorted and single. Two thirds of an entry, from its cost to its price,
are the same in every charge of a job: what was proven and parsed once is remembered by its bytes,
and only the rest is read, by a shape that knows where it was cut. Everything else goes the slow
way: this module must never learn from bytes that were not proven, and never call a line canonical
for any other reason.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import from_json

from privacy_gateway import canonical

# A pattern takes milliseconds to compile and each takes its turn at every unknown line.
MAX_SHAPES: Final = 64
MAX_LEARNT_BYTES: Final = 16_384
# Spans that are remembered, with their values: some ten megabytes at most.
MAX_SPANS: Final = 1024
MAX_SPAN_BYTES: Final = 4096

Flaw = Literal["number", "duplicate_key", "encoding"]

_TOKEN: Final = re.compile(
    rb'(?P<text>"(?:[^"\\]|\\.)*")(?P<key>:)?|(?P<integer>-?[0-9]+)|(?P<boolean>true|false)'
)
_STRING: Final = rb'"[ !#-\[\]-~]*+"'
_INTEGER: Final = rb"(?:0|-?[1-9][0-9]{0,18}+)"
_BOOLEAN: Final = rb"(?:true|false)"
# The first member of the span that a job's entries have in common, and the first behind it.
_FROM, _TO = "cost", "population"
_BEGIN, _END = b',"cost":', b',"population":'


class NotCanonical(ValueError):
    """Bytes that are not the canonical JSON of any value.

    Attributes:
        flaw: `number` for a float, NaN, an infinity, an integer spelt otherwise or a boolean in a
            list; `duplicate_key`; `encoding` for everything else (not JSON, white space, order,
            escapes, not UTF-8).
    """

    def __init__(self, flaw: Flaw, detail: str) -> None:
        super().__init__(detail)
        self.flaw: Flaw = flaw
        self.detail = detail


class _Shape(NamedTuple):
    """What every line of one shape matches, and where a span can be cut out of it.

    `whole` has an empty group at both ends of the span, `rest` one where the span was cut out.
    """

    whole: re.Pattern[bytes]
    rest: re.Pattern[bytes] | None
    names: tuple[str, ...]


class _Span(NamedTuple):
    """Members that were proven to stand between other members of an object, and their values."""

    rest: re.Pattern[bytes]
    values: dict[str, Any]


class Shapes:
    """Shapes learnt so far; the one that matched last is asked first."""

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []
        self._spans: dict[bytes, _Span] = {}

    def __len__(self) -> int:
        return len(self._shapes)

    def read(self, data: bytes) -> Any:
        """The value of canonical bytes. Members may be shared with other values: do not change.

        Raises:
            NotCanonical: they are not.
        """
        begin, end = data.find(_BEGIN), data.rfind(_END)
        span = self._spans.get(data[begin:end])
        if span is not None:
            rest = data[:begin] + data[end:]
            found = span.rest.fullmatch(rest)
            if found is not None and found.start(1) == begin:
                return from_json(rest) | span.values
        return self._read_whole(data, begin, end)

    def _read_whole(self, data: bytes, begin: int, end: int) -> Any:
        """Read every byte; a span that stands between `begin` and `end` is remembered."""
        for place, shape in enumerate(self._shapes):
            found = shape.whole.fullmatch(data)
            if found is not None:
                if place:
                    self._shapes.insert(0, self._shapes.pop(place))
                value = from_json(data)
                if shape.rest is not None and (found.start(1), found.start(2)) == (begin, end):
                    self._remember(data[begin:end], shape.rest, shape.names, value)
                return value
        value = read_slowly(data)
        if len(self._shapes) < MAX_SHAPES and len(data) <= MAX_LEARNT_BYTES:
            self._shapes.insert(0, _learnt(data, value))
        return value

    def _remember(
        self, text: bytes, rest: re.Pattern[bytes], names: tuple[str, ...], value: dict[str, Any]
    ) -> None:
        if len(text) <= MAX_SPAN_BYTES:
            if len(self._spans) >= MAX_SPANS:
                self._spans.clear()
            self._spans[text] = _Span(rest, {name: value[name] for name in names})


def read_slowly(data: bytes) -> Any:
    """The value of canonical bytes, by writing it again.

    Raises:
        NotCanonical: they are not canonical, and why.
    """
    try:
        value = _DECODE(data.decode())
        if canonical.dumps(value, floats=True) == data:
            return _without_listed_booleans(value)
    except NotCanonical:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise NotCanonical("encoding", f"it is not JSON in UTF-8: {error}") from error
    raise _otherwise(data)


def _without_listed_booleans(value: Any) -> Any:
    """The value, if no list in it holds a boolean: to Python, [true] equals the vector [1]."""
    if isinstance(value, list):
        if bool in set(map(type, value)):
            raise NotCanonical("number", "a list holds a boolean; a ledger's hold numbers or text")
        for member in value:
            _without_listed_booleans(member)
    elif isinstance(value, dict):
        for member in value.values():
            _without_listed_booleans(member)
    return value


def _learnt(data: bytes, value: Any) -> _Shape:
    """The shape of a canonical line."""
    if not (isinstance(value, dict) and {_FROM, _TO} <= value.keys() and min(value) < _FROM):
        return _Shape(re.compile(shape_of(data)), None, ())
    head: dict[str, Any] = {}
    span: dict[str, Any] = {}
    tail: dict[str, Any] = {}
    for name, member in value.items():
        part = head if name < _FROM else span if name < _TO else tail
        part[name] = member
    # Without their brackets, and the comma that comes before a member behind another.
    before = canonical.dumps(head)[:-1]
    between = b"," + canonical.dumps(span)[1:-1]
    behind = b"," + canonical.dumps(tail)[1:]
    first, middle, last = map(shape_of, (before, between, behind))
    return _Shape(
        re.compile(first + b"()" + middle + b"()" + last),
        re.compile(first + b"()" + last),
        tuple(span),
    )


def shape_of(data: bytes) -> bytes:
    """The pattern of every line that differs from this canonical one in values alone."""
    parts, done = [], 0
    for found in _TOKEN.finditer(data):
        parts.append(re.escape(data[done : found.start()]))
        parts.append(_pattern(found))
        done = found.end()
    parts.append(re.escape(data[done:]))
    return b"".join(parts)


def _pattern(found: re.Match[bytes]) -> bytes:
    """What may stand in the place of one token."""
    if found["key"] is not None:
        return re.escape(found[0])
    if found["text"] is not None:
        return _STRING
    return _INTEGER if found["integer"] is not None else _BOOLEAN


def _otherwise(data: bytes) -> NotCanonical:
    """Why bytes that parse are not those of their value."""
    try:
        json.loads(data, object_pairs_hook=_single, parse_int=_spelt)
    except NotCanonical as flaw:
        return flaw
    return NotCanonical("encoding", "its keys, spaces or escapes are not the canonical ones")


def _refuse(text: str) -> Any:
    raise NotCanonical("number", f"it holds the number {text[:40]}; a ledger has integers only")


def _spelt(text: str) -> int:
    """An integer as `json` writes it."""
    value = int(text)
    return value if str(value) == text else _refuse(text)


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise NotCanonical("duplicate_key", f"the key {key[:40]!r} appears twice in one object")
        members[key] = value
    return members


_DECODE: Final = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse).decode
