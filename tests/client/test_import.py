"""The library is light: quick to import, and nothing heavy before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.servers import REPOSITORY

HEAVY = ("numpy", "keras", "tensorflow", "typer", "dp_accounting", "sqlalchemy", "tqdm")


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(REPOSITORY / "client"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "use", ["", "pg.login", "pg.Refused", "pg.tff.train_model", "pg.aio.login", "pg.Job"]
)
def test_nothing_heavy_is_imported(use: str) -> None:
    code = (
        f"import sys, privacy_gateway as pg; {use}\nprint([m for m in {HEAVY} if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_importing_is_quick() -> None:
    # CPU time of the import, so that a busy machine cannot fail the test.
    code = (
        "from time import process_time as now; a = now(); import privacy_gateway as pg; b = now();"
        "pg.login; c = now(); print(b - a, c - a)"
    )
    alone, with_login = (float(text) for text in run(code).split())
    assert alone < 0.1  # 0.004 measured
    assert with_login < 2.0  # 0.4 measured


def test_unknown_names_are_named() -> None:
    import privacy_gateway

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        privacy_gateway.nothing  # noqa: B018
    assert {"login", "tff", "Refused", "aio"} <= set(dir(privacy_gateway))
