"""Where a login is kept between commands: one file, readable by its owner alone.

The environment (PRIVACY_GATEWAY_URL, PRIVACY_GATEWAY_TOKEN) goes before the file. A token must
never be printed, and never be written with wider permissions, not even for a moment.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from privacy_gateway.client import Domain, login
from privacy_gateway.errors import Refused, invalid

FILE = "credentials.json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login: where, as whom, with which token."""

    url: str
    email: str
    role: str
    token: str
    expires_at: str
    token_id: str = ""


def path() -> Path:
    """The file; `PRIVACY_GATEWAY_CONFIG` moves its directory."""
    given = os.environ.get("PRIVACY_GATEWAY_CONFIG")
    return Path(given or typer.get_app_dir("privacy-gateway")) / FILE


def save(credentials: Credentials) -> Path:
    """Write the file, mode 0600, in one step."""
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes the file 0600 from its first moment.
    descriptor, scratch = tempfile.mkstemp(dir=target.parent, prefix=".credentials-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(credentials), file)
    Path(scratch).replace(target)
    return target


def load() -> Credentials | None:
    """The stored login, or None."""
    try:
        return Credentials(**json.loads(path().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def forget() -> bool:
    """Delete the stored login; False when there was none."""
    try:
        path().unlink()
    except FileNotFoundError:
        return False
    return True


def connect() -> Domain:
    """The gateway of the environment or of the stored login.

    Raises:
        Refused: `unauthenticated` when there is neither; `invalid_request` for an address or a
            token that can be none.
    """
    url, token = os.environ.get("PRIVACY_GATEWAY_URL"), os.environ.get("PRIVACY_GATEWAY_TOKEN")
    stored = load()
    if token is None and stored is not None and url in (None, stored.url):
        url, token = stored.url, stored.token
    if token is None:
        raise Refused("unauthenticated", "there is no login for this gateway yet")
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise invalid("PRIVACY_GATEWAY_TOKEN", "has characters that no token has; copy it again")
    with addressed():
        return login(url=url, token=token)


@contextmanager
def addressed() -> Iterator[None]:
    """Around what takes an address: one that can be none is refused like any other input."""
    try:
        yield
    except ValueError as error:
        raise invalid("url", str(error)) from error
