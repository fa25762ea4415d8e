"""Walks a JSON file by its outer members, holding no more than one value of bounded size.

Only objects are walked; the values inside are cut out as bytes for a real parser. Depth is counted
here, so a parser never sees nesting that it could fall over.
Format: RFC 8259, UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from jobs.ingest_source import Limits, unreadable, within

_CHUNK: Final = 1 << 18
_DEPTH: Final = 16
_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_MARK: Final = re.compile(rb'["{}\[\]]')
_STRING_END: Final = re.compile(rb'["\\]')
_SCALAR_END: Final = re.compile(rb"[,}\] \t\n\r]")
_NAME_BYTES: Final = 1 << 16


class Scanner:
    """A position in a JSON file.

    Attributes:
        limits: `record_bytes` bounds one value.
    """

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._limit = limits.record_bytes
        self._buffer = b""
        self._at = 0
        self._depth = 0
        self._inside = False

    def members(self) -> Iterator[str]:
        """Names of an object's members; the caller takes each value before the next name."""
        self._expect(b"{")
        if self._peek() == b"}":
            self._at += 1
            return
        while True:
            yield self._name()
            mark = self._peek()
            self._at += 1
            if mark == b"}":
                return
            if mark != b",":
                unreadable("the file is not JSON")

    def value(self) -> bytes:
        """The bytes of one value, at most the limit."""
        return b"".join(self._pieces())

    def skip(self) -> None:
        """Pass over one value of any size."""
        for _ in self._pieces(bounded=False):
            pass

    def finish(self) -> None:
        """Only white space may follow."""
        if self._peek(end=True):
            unreadable("the file goes on after its end")

    def _pieces(self, *, bounded: bool = True) -> Iterator[bytes]:
        """One value in pieces of the buffer."""
        first = self._peek()
        if first not in (b"{", b"[", b'"'):
            yield from self._run(_SCALAR_END, bounded)
            return
        self._depth, self._inside, size = 0, False, 0
        while True:
            start = self._at
            closed = self._to_close()
            size += self._at - start
            if bounded:
                within(size, self._limit, "a user's data or a list is too long")
            yield self._buffer[start : self._at]
            if closed:
                return
            self._fill()

    def _to_close(self) -> bool:
        """Move behind the bracket or quote that closes the value, or to the end of the buffer."""
        at = self._at
        while found := (_STRING_END if self._inside else _MARK).search(self._buffer, at):
            mark, at = found.group(), found.end()
            if mark == b"\\":
                if at == len(self._buffer):
                    # The escaped character comes with the next chunk: keep both together.
                    self._buffer += self._file.read(1)
                at += 1
                continue
            if mark == b'"':
                self._inside = not self._inside
            else:
                self._depth += 1 if mark in b"{[" else -1
                if self._depth > _DEPTH:
                    unreadable(f"the file is nested more than {_DEPTH} deep")
            if self._depth == 0 and not self._inside:
                self._at = at
                return True
        self._at = len(self._buffer)
        return False

    def _run(self, stop: re.Pattern[bytes], bounded: bool) -> Iterator[bytes]:
        """A number or a word, up to what ends it."""
        size = 0
        while True:
            found = stop.search(self._buffer, self._at)
            end = found.start() if found else len(self._buffer)
            size += end - self._at
            if bounded:
                within(size, self._limit, "a number is too long")
            yield self._buffer[self._at : end]
            self._at = end
            if found:
                return
            self._fill()

    def _name(self) -> str:
        """A member's name and the colon after it."""
        if self._peek() != b'"':
            unreadable("the file is not JSON")
        text, size = [], 0
        for piece in self._pieces():
            size += len(piece)
            within(size, _NAME_BYTES, "a name is too long")
            text.append(piece)
        self._expect(b":")
        try:
            return str(json.loads(b"".join(text).decode()))
        except ValueError:
            unreadable("the file is not JSON")

    def _expect(self, mark: bytes) -> None:
        if self._peek() != mark:
            unreadable("the file is not JSON")
        self._at += 1

    def _peek(self, *, end: bool = False) -> bytes:
        """The next byte that is not white space; at the end of the file nothing, if allowed."""
        while True:
            spaces = _SPACE.match(self._buffer, self._at)
            self._at = spaces.end() if spaces else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            self._buffer, self._at = self._file.read(_CHUNK), 0
            if not self._buffer:
                if end:
                    return b""
                unreadable("the file ends before its data does")

    def _fill(self) -> None:
        """The next chunk; everything before it has been taken."""
        self._buffer, self._at = self._file.read(_CHUNK), 0
        if not self._buffer:
            unreadable("the file ends before its data does")
