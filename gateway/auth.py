"""Who is calling: argon2id passwords, opaque revocable tokens, one shape of failure.

A wrong password, an unknown address, a disabled account, an expired, revoked or forged token all
get the same sentence after the same work, so that nothing about accounts can be learned by
asking. A password or token must never reach a row, a log line or an error.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import cast

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import Session

from gateway.places import Places
from gateway.tables import TOKEN, USER, Token, User
from jobs.principal import Principal
from kit.clock import micros
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.schemas import Role

TOKEN_PREFIX = "pgt_"  # noqa: S105  (a public prefix, so that leaked tokens can be scanned for)
MAXIMUM_TOKEN_LENGTH = 100

_HASHER = PasswordHasher()
# One verification takes 64 MiB: without a bound, a flood of logins is a memory bomb.
_HASHING = threading.BoundedSemaphore(4)
# Strangers may log in, so logging in may never take all the threads that requests run on.
_CHECKING = Places("log-ins", in_all=24, of_one=24)


@dataclass(frozen=True, slots=True)
class Issued:
    """A fresh token: the only moment at which its text exists outside the caller's hands."""

    row: Token
    text: str


def create_user(
    session: Session,
    *,
    email: str,
    password_hash: str,
    role: Role,
    organisation: str,
    now: datetime,
    new_id: Callable[[str], str],
) -> User:
    """Add an account; the password was hashed before, outside the transaction.

    Raises:
        Refused: `conflict` on field `email` when the address is taken.
    """
    address = email.strip().lower()
    if session.scalar(sa.select(USER.c.id).where(USER.c.email == address)) is not None:
        fault = FieldError("email", "an account with this address exists")
        raise Refused("conflict", "email: an account with this address exists", errors=[fault])
    user = User(
        id=new_id("usr"),
        email=address,
        password_hash=password_hash,
        role=role,
        organisation=organisation,
        created_at=micros(now),
    )
    session.add(user)
    session.flush()
    return user


def generate_password() -> str:
    """A password with 144 bits of chance; a letter first, so that no command reads a flag."""
    return secrets.choice(string.ascii_letters) + secrets.token_urlsafe(18)


def hash_password(password: str) -> str:
    """argon2id with the parameters of RFC 9106's low-memory profile."""
    with _HASHING:
        return _HASHER.hash(password)


def account(session: Session, email: str) -> User | None:
    """The account of an address; what `check_password` compares with."""
    return session.scalar(sa.select(User).where(USER.c.email == email.strip().lower()))


def check_password(user: User | None, password: str) -> User:
    """The account that the password opens; takes a tenth of a second, so no transaction is open.

    Raises:
        Refused: `unauthenticated`, the same for every reason and after the same work;
            `unavailable` where too many passwords are being checked.
    """
    known = user is not None and user.disabled_at is None
    with _CHECKING.taken():
        stored = user.password_hash if user is not None else _decoy()
        with _HASHING:
            matches = _matches(stored, password)
    if user is None or not (known and matches):
        raise Refused("unauthenticated", "email or password is wrong")
    return user


def issue(
    session: Session,
    *,
    user_id: str,
    label: str,
    now: datetime,
    hours: float,
    new_id: Callable[[str], str],
) -> Issued:
    """Make a token of 256 random bits for an account; only its hash is stored."""
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = Token(
        id=new_id("tok"),
        user_id=user_id,
        sha256=_digest(text),
        label=label,
        created_at=micros(now),
        expires_at=micros(now + timedelta(hours=hours)),
    )
    session.add(row)
    session.flush()
    return Issued(row, text)


def authenticate(session: Session, header: str | None, *, now: datetime) -> Principal:
    """The caller behind an `Authorization` header.

    Raises:
        Refused: `unauthenticated`, one sentence whatever was wrong.
    """
    kind, _, text = (header or "").partition(" ")
    if kind.lower() != "bearer" or not text or len(text) > MAXIMUM_TOKEN_LENGTH:
        raise _no_token()
    query = (
        sa.select(User)
        .join(TOKEN, TOKEN.c.user_id == USER.c.id)
        .where(TOKEN.c.sha256 == _digest(text))
        .where(TOKEN.c.revoked_at.is_(None), USER.c.disabled_at.is_(None))
        .where(TOKEN.c.expires_at > micros(now))
    )
    user = session.scalar(query)
    if user is None:
        raise _no_token()
    return principal_of(user)


def revoke(session: Session, principal: Principal, token_id: str, *, now: datetime) -> None:
    """End a token's life: one's own, or any for an administrator; twice is once.

    Raises:
        Refused: `not_found` where there is none, or it is somebody else's.
    """
    token = session.get(Token, token_id)
    if token is None or (principal.role != "admin" and token.user_id != principal.id):
        raise Refused("not_found", "there is no such token, or it is not yours")
    if token.revoked_at is None:
        token.revoked_at = micros(now)


def set_password(session: Session, user: User, *, password_hash: str, now: datetime) -> int:
    """Replace a password and end every token of the account; how many tokens that were."""
    user.password_hash = password_hash
    return _end_tokens(session, user, now=now)


def set_disabled(session: Session, user: User, *, disabled: bool, now: datetime) -> int:
    """Close an account, or open it again without its old tokens; how many tokens ended.

    What it did stays: its jobs, its data sets, its entries in the ledger. Twice is once.
    """
    if not disabled:
        user.disabled_at = None
        return 0
    if user.disabled_at is None:
        user.disabled_at = micros(now)
    return _end_tokens(session, user, now=now)


def _end_tokens(session: Session, user: User, *, now: datetime) -> int:
    moment = micros(now)
    alive = TOKEN.c.user_id == user.id, TOKEN.c.revoked_at.is_(None), TOKEN.c.expires_at > moment
    ended = session.scalars(sa.select(Token).where(*alive)).all()
    for token in ended:
        token.revoked_at = moment
    return len(ended)


def principal_of(user: User) -> Principal:
    """The account as the use cases see it."""
    return Principal(
        id=user.id, email=user.email, role=cast("Role", user.role), organisation=user.organisation
    )


def _matches(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


@cache
def _decoy() -> str:
    """A hash nobody knows the password of, so that an unknown address costs as much as a known."""
    return _HASHER.hash(secrets.token_urlsafe(32))


def _no_token() -> Refused:
    return Refused("unauthenticated", "a valid bearer token is needed")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
