"""Accounts: log in, who am I, make users, make and revoke tokens."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from gateway import auth
from gateway.body import json_body
from gateway.deps import Admin, Anybody, Configured, Outside, PageAsked
from gateway.paging import page
from gateway.tables import TOKEN, USER, Token, User
from jobs.principal import Principal
from kit.clock import from_micros, rfc3339
from privacy_gateway.account_bodies import Login, NewUser, OwnPassword
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.views import LoginView, NewToken, Page, TokenView, UserView

router = APIRouter(prefix="/v1", tags=["accounts"])


@router.post("/login")
def login(
    services: Outside, settings: Configured, body: Annotated[Login, json_body(Login)]
) -> LoginView:
    """Trade email and password for a bearer token."""
    # Two transactions, none while argon2 takes its tenth of a second: too long to hold a lock, or
    # a connection that others wait for.
    with services.database.read() as session:
        found = auth.account(session, body.email)
    caller = auth.principal_of(auth.check_password(found, body.password))
    with services.database.unit_of_work() as session:
        issued = auth.issue(
            session,
            user_id=caller.id,
            label="login",
            now=services.clock(),
            hours=settings.login_hours,
            new_id=services.new_id,
        )
        return LoginView(
            token=issued.text,
            token_id=issued.row.id,
            role=caller.role,
            expires_at=_time(issued.row.expires_at),
        )


@router.get("/me")
def me(services: Outside, caller: Anybody) -> UserView:
    """The account behind the token."""
    with services.database.read() as session:
        return _user(_account(session, caller))


@router.post("/me/password", status_code=204)
def change_password(
    services: Outside, caller: Anybody, body: Annotated[OwnPassword, json_body(OwnPassword)]
) -> Response:
    """Change one's own password; every token of the account ends, this one too."""
    with services.database.read() as session:
        found = auth.account(session, caller.email)
    try:
        auth.check_password(found, body.password)
    except Refused as refusal:
        if refusal.code != "unauthenticated":
            raise
        raise invalid("password", "is not your present password") from None
    hashed = auth.hash_password(body.new_password)
    with services.database.unit_of_work() as session:
        auth.set_password(
            session, _account(session, caller), password_hash=hashed, now=services.clock()
        )
    return Response(status_code=204)


@router.post("/users", status_code=201)
def create_user(
    services: Outside, caller: Admin, body: Annotated[NewUser, json_body(NewUser)]
) -> UserView:
    """Make an account."""
    hashed = auth.hash_password(body.password)
    with services.database.unit_of_work() as session:
        user = auth.create_user(
            session,
            email=body.email,
            password_hash=hashed,
            role=body.role,
            organisation=body.organisation,
            now=services.clock(),
            new_id=services.new_id,
        )
        return _user(user)


@router.get("/users")
def list_users(services: Outside, caller: Admin, asked: PageAsked) -> Page[UserView]:
    """All accounts, oldest first."""
    with services.database.read() as session:
        return page(session, sa.select(User), USER.c.id, asked, _user)


@router.post("/tokens", status_code=201)
def create_token(
    services: Outside, caller: Anybody, body: Annotated[NewToken, json_body(NewToken)]
) -> TokenView:
    """Make a token for one's own account, for a script or a notebook; shown once."""
    with services.database.unit_of_work() as session:
        issued = auth.issue(
            session,
            user_id=caller.id,
            label=body.label,
            now=services.clock(),
            hours=body.hours,
            new_id=services.new_id,
        )
        return _token(issued.row).model_copy(update={"token": issued.text})


@router.get("/tokens")
def list_tokens(services: Outside, caller: Anybody, asked: PageAsked) -> Page[TokenView]:
    """One's own tokens, without their text."""
    query = sa.select(Token).where(TOKEN.c.user_id == caller.id)
    with services.database.read() as session:
        return page(session, query, TOKEN.c.id, asked, _token)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(services: Outside, caller: Anybody, token_id: str) -> Response:
    """End a token at once."""
    with services.database.unit_of_work() as session:
        auth.revoke(session, caller, token_id, now=services.clock())
    return Response(status_code=204)


def _account(session: Session, caller: Principal) -> User:
    user = session.get(User, caller.id)
    if user is None:
        raise Refused("unauthenticated", "a valid bearer token is needed")
    return user


def _user(user: User) -> UserView:
    caller = auth.principal_of(user)
    return UserView(
        id=user.id,
        email=user.email,
        role=caller.role,
        organisation=user.organisation,
        created_at=_time(user.created_at),
    )


def _token(token: Token) -> TokenView:
    return TokenView(
        id=token.id,
        label=token.label,
        created_at=_time(token.created_at),
        expires_at=_time(token.expires_at),
        revoked=token.revoked_at is not None,
    )


def _time(value: int) -> str:
    return rfc3339(from_micros(value))
