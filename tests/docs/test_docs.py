"""What the documents say is so: pages equal the code, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from docs.generate import cli
from docs.generate.__main__ import DIRECTORY, PAGES, render
from docs.generate.settings import CLIENT_VARIABLES
from gateway.problems import STATUS
from privacy_gateway.errors import CODES

REPOSITORY = Path(__file__).resolve().parents[2]
# Spelled apart, so that this file does not find itself.
MACHINE_PATHS = tuple("/" + "/".join(parts) for parts in (("work", ""), ("root", ""), ("home", "")))
COMMAND_LINE = re.compile(r"privacy-gateway((?: +[^\s`|&;)]+)+)")


def tracked() -> list[Path]:
    """Files under version control, or every text of a tree without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in listed.stdout.decode().split("\0") if name]


def documents() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md" and path.is_file()]


def code_blocks(text: str, *kinds: str) -> Iterator[str]:
    for kind, body in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        if kind in kinds:
            yield body


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_says_what_the_code_says(name: str) -> None:
    assert (DIRECTORY / name).read_text(encoding="utf-8") == render(name), "run `make docs`"


def test_links_lead_somewhere() -> None:
    broken = []
    for page in documents():
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            place, _, anchor = target.partition("#")
            path = (page.parent / place).resolve() if place else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(CODES)


def test_no_machine_path_is_committed() -> None:
    found = []
    for path in tracked():
        if not path.is_file() or path.suffix in {".npz", ".png", ".woff2"}:
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if any(prefix in line for prefix in MACHINE_PATHS):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:80]}")
    assert found == []


def named_commands() -> list[tuple[str, str]]:
    """Every `privacy-gateway …` line of a document, with where it stands."""
    found = []
    for page in documents():
        if page.parent == DIRECTORY:
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for body in (*code_blocks(text, "sh", "console", ""), *re.findall(r"`([^`\n]+)`", text)):
            # An option first is not ours: `docker build --tag privacy-gateway --secret …`.
            lines = [words.strip() for words in COMMAND_LINE.findall(body)]
            found += [(str(page.relative_to(REPOSITORY)), w) for w in lines if w[0] not in "-.="]
    return found


def test_commands_and_options_exist() -> None:
    commands = cli.all_commands()
    groups = {name.split()[0] for name in commands if " " in name}
    wrong = []
    for page, line in named_commands():
        words = line.split()
        in_group = words[0] in groups and not "".join(words[1:2]).startswith("-")
        name = " ".join(words[:2]) if in_group else words[0]
        if "…" in line and name not in commands:
            continue
        options = {word.partition("=")[0] for word in words if word.startswith("-")} - {"--help"}
        if name not in commands:
            wrong.append(f"{page}: no command {name}")
        elif not options <= cli.options_of(commands[name]):
            wrong.append(f"{page}: {name} has no {options - cli.options_of(commands[name])}")
    assert wrong == []


def test_make_targets_exist() -> None:
    rules = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", rules, re.MULTILINE))
    wrong = []
    for page in documents():
        text = page.read_text(encoding="utf-8")
        lines = [*code_blocks(text, "sh", ""), *re.findall(r"`([^`\n]+)`", text)]
        named = {t for body in lines for t in re.findall(r"^make ([a-z]+)\b", body, re.MULTILINE)}
        wrong += [f"{page.name}: make {target}" for target in named - targets]
    assert wrong == []


def test_variables_read_by_the_client_are_documented() -> None:
    client = REPOSITORY / "client" / "privacy_gateway"
    sources = [*client.rglob("*.py"), *(REPOSITORY / "gateway" / "cli").rglob("*.py")]
    pattern = re.compile(r"(?:environ\.get\(|envvar=)\"(PRIVACY_GATEWAY_\w+)\"")
    read = {name for path in sources for name in pattern.findall(path.read_text("utf-8"))}
    assert read <= set(CLIENT_VARIABLES)


def test_every_table_is_explained() -> None:
    __import__("gateway.app")
    page = (REPOSITORY / "docs" / "internals" / "data-model.md").read_text(encoding="utf-8")
    assert [name for name in SQLModel.metadata.tables if f"`{name}`" not in page] == []


def test_every_page_is_reached_from_the_index() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [p for p in documents() if p.is_relative_to(REPOSITORY / "docs") and p.stem != "README"]
    names = [p.relative_to(REPOSITORY / "docs").as_posix() for p in pages]
    alone = [n for n in names if not n.startswith("decisions/") and f"({n})" not in index]
    assert alone == []
