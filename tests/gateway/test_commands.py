"""The operator's commands, on a real state directory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from accounting import log_keys
from gateway import auth
from gateway.cli import doctor
from gateway.cli.main import register

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command on a state directory of this test alone."""
    for name in ("DATABASE_URL", "REDIS_URL", "OPA_URL", "PRIVACY_GATEWAY_ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer()
    register(app)

    def call(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--state", str(tmp_path / "state")])

    return call


def test_migrate_makes_the_schema_and_check_only_looks(run: Run) -> None:
    before = run("migrate", "--check")
    made = run("migrate")
    after = run("migrate", "--check")

    assert before.exit_code == 6
    assert "privacy-gateway migrate" in before.stderr
    assert made.exit_code == after.exit_code == 0
    assert made.stdout.startswith("schema 0")


def test_migrate_makes_the_first_administrator_where_a_password_is_set(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("from a mounted secret\n")
    monkeypatch.setenv("PRIVACY_GATEWAY_ADMIN_PASSWORD_FILE", str(secret))

    first = run("migrate")
    second = run("migrate")

    assert "admin admin@localhost" in first.stdout
    assert "mounted" not in first.output
    assert "admin" not in second.stdout


def test_accounts_and_tokens_are_made_on_the_machine_itself(run: Run) -> None:
    run("migrate")

    generated = run("user", "add", "--email", "ada@example.org", "--role", "researcher")
    given = run(
        "user", "add", "--email", "o@example.org", "--role", "owner", "--password", "x" * 12
    )
    taken = run("user", "add", "--email", "ADA@example.org", "--role", "owner")
    wrong = run("user", "add", "--email", "b@example.org", "--role", "root")
    token = run("token", "--email", "ada@example.org")
    nobody = run("token", "--email", "nobody@example.org")
    listed = run("user", "list")

    assert generated.exit_code == 0
    assert "password " in generated.stdout
    assert "password" not in given.stdout
    assert (taken.exit_code, wrong.exit_code, nobody.exit_code) == (3, 3, 5)
    assert "role" in wrong.stderr
    # No address and no log-in are at fault on the gateway's own machine.
    assert "next:" not in nobody.stderr
    assert token.stdout.startswith("pgt_")
    assert "ada@example.org" in listed.stdout


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("postgresql://127.0.0.1:1/nothing", 6, "does not answer"),
        ("mysql://127.0.0.1/x", 3, "DATABASE_URL"),
        ("nonsense", 3, "DATABASE_URL"),
    ],
)
@pytest.mark.parametrize("words_of", [("migrate",), ("user", "list"), ("serve",)])
def test_a_database_that_is_not_there_is_told_without_a_stack_trace(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    words_of: tuple[str, ...],
    url: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    told = run(*words_of)
    assert told.exit_code == code
    assert words in told.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["user", "list"],
        ["user", "password", "--email", "ann@example.org"],
        ["token", "--email", "ann@example.org"],
        ["backup", "copy"],
        ["doctor", "--no-worker"],
        ["serve"],
    ],
    ids=" ".join,
)
def test_a_mistyped_state_directory_is_named_and_not_made(
    run: Run, words: list[str], tmp_path: Path
) -> None:
    said = run(*words)
    assert said.exit_code == (1 if words[0] == "doctor" else 6)
    assert str(tmp_path / "state") in said.output
    assert not list(tmp_path.iterdir())


def test_an_account_is_closed_opened_and_given_another_password(run: Run) -> None:
    run("migrate")
    ada = ("--email", "Ada@example.org")
    run("user", "add", *ada, "--role", "researcher")
    run("token", *ada)

    closed = run("user", "disable", *ada)
    again = run("user", "disable", *ada)
    assert "1 tokens ended" in closed.stdout
    assert "0 tokens ended" in again.stdout
    assert run("user", "list").stdout.rstrip().endswith("disabled")
    assert run("token", *ada).exit_code == 3

    assert run("user", "enable", *ada).exit_code == 0
    assert "disabled" not in run("user", "list").stdout
    assert run("token", *ada).exit_code == 0

    generated = run("user", "password", *ada)
    assert "1 tokens ended" in generated.stdout
    assert "(shown this once)" in generated.stdout
    given = run("user", "password", *ada, "--password", "x" * 12)
    assert "x" * 12 not in given.output
    assert run("user", "password", *ada, "--password", "short").exit_code == 3
    assert run("user", "disable", "--email", "nobody@example.org").exit_code == 5


def test_doctor_says_what_is_missing(run: Run) -> None:
    before = run("doctor", "--format", "json")
    run("migrate")
    after = run("doctor", "--format", "json")

    parts = {row["part"]: row for row in json.loads(before.stdout)}
    assert not parts["database"]["ok"]
    assert "migrate" in parts["database"]["detail"]
    assert before.exit_code == 1
    assert {row["part"]: row["ok"] for row in json.loads(after.stdout)}["database"]


def test_doctor_names_a_variable_that_sets_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def settings() -> str:
        lines = run("doctor").stdout.splitlines()
        return next(line for line in lines if line.split()[1] == "settings")

    secret = tmp_path / "password"
    secret.write_text("x" * 12)
    monkeypatch.setenv("PRIVACY_GATEWAY_DATABASE_API_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("PRIVACY_GATEWAY_WITNESS_PATH", str(tmp_path / "witness"))
    assert settings().startswith("ok")
    monkeypatch.setenv("PRIVACY_GATEWAY_WITNES_PATH", str(tmp_path / "witness"))
    told = settings()
    assert told.startswith("note")
    assert "PRIVACY_GATEWAY_WITNES_PATH" in told
    assert "API_PASSWORD" not in told


def test_the_clients_variables_are_no_strange_ones() -> None:
    from docs.generate.settings import CLIENT_VARIABLES

    assert set(CLIENT_VARIABLES) == doctor.CLIENT_VARIABLES


def test_doctor_warns_of_a_witness_beside_the_database(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def witness() -> str:
        lines = run("doctor", "--no-worker").stdout.splitlines()
        return next(line for line in lines if line.split()[1] == "witness")

    run("migrate")
    beside = witness()
    assert beside.startswith("note")
    assert "PRIVACY_GATEWAY_WITNESS_PATH" in beside
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system only")
    monkeypatch.setenv("PRIVACY_GATEWAY_WITNESS_PATH", str(memory / tmp_path.name / "checkpoint"))
    assert witness().startswith("ok")


def test_backup_and_restore_from_the_command_line(run: Run, tmp_path: Path) -> None:
    run("migrate")
    made = run("backup", str(tmp_path / "b"))
    again = run("backup", str(tmp_path / "b"))
    unseen = run("restore", str(tmp_path / "b"))
    there = run("restore", str(tmp_path / "b"), "--without-witness")
    done = run("restore", str(tmp_path / "b"), "--without-witness", "--replace", "--format", "json")

    assert "0 ledger entries" in made.stdout
    assert [again.exit_code, unseen.exit_code, there.exit_code] == [3, 3, 3]
    assert "--without-witness" in unseen.stderr
    assert "--replace" in there.stderr
    assert json.loads(done.stdout)["written_back"] == 0
    assert run("migrate", "--check").exit_code == 0


@pytest.mark.parametrize(
    ("redis", "flags", "ok", "mark"),
    [
        (False, (), False, "FAIL"),
        (True, (), True, "note"),
        (True, ("--worker",), False, "FAIL"),
        (False, ("--no-worker",), True, "note"),
    ],
)
def test_doctor_wants_tensorflow_only_where_a_worker_runs(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
    redis: bool,
    flags: tuple[str, ...],
    ok: bool,
    mark: str,
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    run("migrate")
    if redis:
        monkeypatch.setenv("REDIS_URL", redis_url)

    told = run("doctor", *flags)
    listed = run("doctor", *flags, "--format", "json")

    line = next(line for line in told.stdout.splitlines() if "TensorFlow" in line)
    assert line.startswith(mark)
    assert {row["part"]: row["ok"] for row in json.loads(listed.stdout)}["training"] is ok
    assert told.exit_code == listed.exit_code == (0 if ok else 1)


def test_a_generated_password_is_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth.secrets, "token_urlsafe", lambda _: "-" * 24)
    passwords = [auth.generate_password() for _ in range(20)]
    assert all(password[0].isalpha() for password in passwords)
    assert len(set(passwords)) > 1


def test_a_password_made_for_an_account_starts_with_a_letter(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("migrate")
    monkeypatch.setattr(auth.secrets, "token_urlsafe", lambda _: "-" * 24)
    told = run("user", "add", "--email", "ada@example.org", "--role", "researcher").stdout
    assert told.partition("password ")[2][0].isalpha()


def test_a_setting_that_is_wrong_is_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "absent"))
    told = run("doctor")
    assert told.exit_code == 3
    assert "absent" in told.stderr


def test_serve_refuses_an_old_schema_at_once(run: Run) -> None:
    refused = run("serve", "--port", "0")

    assert refused.exit_code == 6
    assert "privacy-gateway migrate" in refused.stderr


def test_the_command_line_imports_nothing_slow() -> None:
    program = (
        "import sys, gateway.cli.main\n"
        "print(sorted({'sqlalchemy', 'fastapi', 'dp_accounting', 'scipy', 'celery', 'tensorflow'}"
        " & set(sys.modules)))"
    )
    path = "import sys; sys.path[:0] = " + repr(sys.path) + "\n"

    done = subprocess.run([sys.executable, "-c", path + program], capture_output=True, text=True)

    assert done.stdout.strip() == "[]", done.stderr


def test_a_key_of_the_log_is_added_and_never_shown(run: Run, tmp_path: Path) -> None:
    early = run("log-key", "add")
    assert early.exit_code != 0
    assert "when it starts" in early.stderr
    log_keys.add(tmp_path / "state" / "keys", "privacy-gateway/test")

    added = run("log-key", "add")
    listed = run("log-key", "list")

    assert added.exit_code == listed.exit_code == 0
    assert listed.stdout.splitlines()[1:] == added.stdout.splitlines()
    assert all(line.startswith("privacy-gateway/test+") for line in listed.stdout.splitlines())
    assert "PRIVATE" not in added.output + listed.output
