"""The page of settings: every variable an operator can set, from the settings classes."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from docs.generate.markdown import attributes, code, document, table
from gateway.settings import GatewaySettings
from jobs.settings import PREFIX, Settings

INTRODUCTION = """
# Settings

Settings are environment variables, read once at the start of a process; nothing else is read, no
`.env` file and no configuration file. Any variable `X` may come by file instead: `X_FILE` names a
file that holds the value. Setting both is refused. A value out of its bounds stops the process
before it serves. Flags of a command (`--state`, `--host`, `--port`) go before the environment.
"""

SHARED = """
## Shared by gateway, worker and operator commands
"""

FRONT = """
## The HTTP process and `up` only
"""

CLIENT = """
## Client and command line

Read by `privacy_gateway` on the machine of the person who types.
"""

_WORDS: dict[Any, str] = {
    SecretStr: "secret text",
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
}

CLIENT_VARIABLES = {
    "PRIVACY_GATEWAY_URL": "address of the gateway; `http://127.0.0.1:8081` without it",
    "PRIVACY_GATEWAY_TOKEN": "bearer token, used instead of the stored login",
    "PRIVACY_GATEWAY_PASSWORD": "password for `login`, instead of a prompt",
    "PRIVACY_GATEWAY_CONFIG": "directory of the stored login; one for each person on a machine",
    "PRIVACY_GATEWAY_NEW_PASSWORD": "the password that `password` changes to",
    "PRIVACY_GATEWAY_USER_PASSWORD": "password that `user add` and `user password` give",
}


def page() -> str:
    """The page."""
    shared = Settings.model_fields
    own = {n: f for n, f in GatewaySettings.model_fields.items() if n not in shared}
    return document(
        INTRODUCTION,
        SHARED,
        _table(shared, attributes(Settings)),
        FRONT,
        _table(own, attributes(GatewaySettings)),
        CLIENT,
        table(["variable", "meaning"], [(code(n), m) for n, m in CLIENT_VARIABLES.items()]),
    )


def variable(name: str, field: FieldInfo) -> str:
    """The environment variable of a field."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return next(str(choice) for choice in alias.choices if str(choice).isupper())
    return f"{PREFIX}{name.upper()}"


def _table(fields: dict[str, FieldInfo], meanings: dict[str, str]) -> str:
    rows = [
        (code(variable(name, field)), _kind(field), code(field.default), _meaning(meanings[name]))
        for name, field in fields.items()
    ]
    return table(["variable", "value", "default", "meaning"], rows)


def _meaning(text: str) -> str:
    """Without the variable's name, which stands in the first column."""
    return re.sub(r" \(`[A-Z_]+`\)", "", text)


def _kind(field: FieldInfo) -> str:
    """Type and bounds in words."""
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind]
    if isinstance(kinds[0], str):
        return ", ".join(code(kind) for kind in kinds)
    kind = next(kind for kind in kinds if kind is not type(None))
    bounds = [
        f"{sign} {value:,}" if isinstance(value, int) else f"{sign} {value:g}"
        for limit in field.metadata
        for sign, value in _bounds(limit)
    ]
    return ", ".join([_WORDS.get(kind, "path"), *bounds])


def _bounds(limit: Any) -> list[tuple[str, Any]]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return [(sign, getattr(limit, n)) for n, sign in signs.items() if hasattr(limit, n)]
