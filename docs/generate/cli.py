"""The page of commands: every command, argument and option, from the command line itself."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import typer

from docs.generate.markdown import code, document, table
from gateway.cli.main import register
from privacy_gateway.cli.commands import build
from privacy_gateway.cli.output import EXITS

INTRODUCTION = """
# Command line

`privacy-gateway` has the commands of two distributions. The client brings what researchers, owners
and auditors type; the server adds the operator's commands (marked *server*) where it is installed.
Results go to standard output, remarks and refusals to standard error. `--format json` prints
what a program can read. `--help` works after every command.
"""


def page() -> str:
    """The page."""
    commands = all_commands()
    own = set(_walk(typer.main.get_command(build(extensions=False))))
    parts = [_command(name, command, server=name not in own) for name, command in commands.items()]
    exits = table(["exit code", "meaning"], EXITS.items())
    return document(INTRODUCTION, "## Exit codes", exits, *parts)


def all_commands() -> dict[str, Any]:
    """Every command by its whole name, such as `jobs watch`."""
    app = build(extensions=False)
    register(app)
    return _walk(typer.main.get_command(app))


def options_of(command: Any) -> set[str]:
    """Spellings of a command's options, `--no-…` among them."""
    return {
        spelling
        for option in _visible(command)
        for spelling in (*option.opts, *option.secondary_opts)
    }


def _walk(group: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        full = f"{prefix}{name}"
        if not hasattr(command, "commands") or command.invoke_without_command:
            found[full] = command
        if hasattr(command, "commands"):
            found |= _walk(command, f"{full} ")
    return found


def _command(name: str, command: Any, *, server: bool) -> str:
    """One command: usage, text, parameters."""
    parameters = _visible(command)
    usage = " ".join(["privacy-gateway", name, *(_usage(each) for each in parameters)])
    rows = [(code(_spelled(each)), _default(each), each.help or "") for each in parameters]
    return document(
        f"## `{name}`" + (" (server)" if server else ""),
        f"```\n{usage}\n```",
        inspect.cleandoc(command.help or ""),
        table(["parameter", "default", "meaning"], rows),
    )


def _visible(command: Any) -> list[Any]:
    return [each for each in command.params if not each.hidden and each.name != "help"]


def _usage(parameter: Any) -> str:
    spelled = _spelled(parameter)
    return spelled if parameter.required else f"[{spelled}]"


def _spelled(parameter: Any) -> str:
    """An argument in capitals, an option with its value; where there is a choice, the choices."""
    choices = getattr(parameter.type_descriptor, "choices", None)
    value = "|".join(choices) if choices else str(parameter.name).strip("_").upper()
    if not parameter.opts[0].startswith("-"):
        return value
    spellings = "/".join([*parameter.opts, *parameter.secondary_opts])
    return spellings if parameter.is_flag else f"{spellings} {value}"


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "needed"
    if value is None or value is False or callable(value):
        return ""
    if value is True:
        return code(parameter.opts[0])
    return code(value.value if isinstance(value, Enum) else value)
