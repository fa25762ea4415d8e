"""Structured logs on standard error: one JSON object a line, or coloured text on a terminal.

A log line must never hold a record, an un-noised number, a token or a password; the processor
below drops the names under which those would travel.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any, TextIO, cast

import structlog

_SECRETS = frozenset({"password", "token", "authorization", "secret", "key", "weights", "cohort"})


class _StandardError:
    """Standard error as it is when a line is written; a line that nobody can read is dropped.

    A request or a job must not fail because the reader of its log has gone away.
    """

    def write(self, text: str) -> None:
        """Write, or drop."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _redact(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Blank members that must not be written, whoever passed them."""
    for name in _SECRETS & event.keys():
        event[name] = "[redacted]"
    return event


def configure(level: str = "INFO") -> None:
    """Install the format once per process; `level` is a name of `logging`."""
    renderer: Any = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )


def get(name: str) -> Any:
    """A logger that names its room. Bound on first use: a module asks before `configure` runs."""
    return structlog.get_logger(room=name)


def place_of(error: BaseException) -> dict[str, object]:
    """Kind and place of an exception; its text and locals may hold secrets or records."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"kind": type(error).__name__, "where": places}
