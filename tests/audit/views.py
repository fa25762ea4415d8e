"""All that a researcher can see of a gateway while her job waits, runs and is over, as bytes.

Every route of the application is asked, with the ids she knows; what she may not see is written
down as the refusal she gets. Status, headers and body count.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from starlette.testclient import TestClient

from accounting import log_keys
from gateway import auth
from gateway.app import create_app
from gateway.settings import GatewaySettings
from jobs.notary import Notary
from kit import ids
from tests.audit.bench import Bench, Keys, Run, Watched, World, body
from tests.support.market import RESEARCHER, Market

# How long the front door took to answer; it opens no data, and so says nothing about any.
_DOOR = re.compile(rb"^privacy_gateway_http_(seconds|requests_created).*$", re.MULTILINE)


@dataclass
class Seen:
    """What was seen, by moment and question; and what the worker did meanwhile."""

    pages: dict[str, bytes] = field(default_factory=dict)
    run: Run | None = None

    def differing(self, other: Seen) -> set[str]:
        """Questions with different answers."""
        assert self.pages.keys() == other.pages.keys()
        return {name for name, page in self.pages.items() if other.pages[name] != page}


def look(bench: Bench, world: World, keys: Keys, around: Any = None, **changes: Any) -> Seen:
    """One job from quote to receipt, all pages read before, during and after it."""
    seen = Seen()
    with bench.market(world) as market, _equal_ids():
        client, notary = _door(bench, market)
        request = body(market, **changes)
        named = {"Idempotency-Key": "one"}

        def post(moment: str, path: str, content: Any, **headers: str) -> Any:
            answer = client.post(path, json=content, headers=headers)
            seen.pages[f"{moment} POST {path}"] = _bytes(answer)
            return answer

        post("before", "/v1/quotes", {"job": request})
        post("before", "/v1/quotes/inverse", {"job": request, "solve_for": "rounds"})
        job_id = post("before", "/v1/jobs", request, **named).json()["id"]
        known = {
            "job_id": job_id,
            "dataset_id": market.dataset_id,
            "population_id": market.population_id,
        }

        def during(watched: Watched, number: int) -> None:
            _read(seen, client, f"round {number}", known)
            if around is not None:
                around(watched, number)

        attempts = 1 if around is None else 3
        seen.run = bench.work(market, world, job_id, keys, attempts=attempts, around=during)
        notary.step()
        _read(seen, client, "after", known)
        post("after", "/v1/jobs", request, **named)
        post("after", "/v1/jobs", request | {"rounds": 9}, **named)
        post("after", f"/v1/jobs/{job_id}/cancel", {})
        post("after", "/v1/quotes", {"job": request})
    return seen


@contextmanager
def _equal_ids() -> Iterator[None]:
    """Ids that no caller injects (a decision's) come from here."""
    numbers = itertools.count(1)
    chance = SimpleNamespace(randbits=lambda _bits: next(numbers))
    clock = SimpleNamespace(time_ns=lambda: 0)
    with mock.patch.object(ids, "secrets", chance), mock.patch.object(ids, "time", clock):
        yield


def _door(bench: Bench, market: Market) -> tuple[TestClient, Notary]:
    """The gateway, with the researcher logged in; housekeeping is done by hand."""
    services = market.services
    settings = GatewaySettings(
        state_dir=services.settings.state_dir, housekeeping=False, event_poll_seconds=0.01
    )
    with services.database.unit_of_work() as session:
        now = market.clock()
        auth.create_user(
            session,
            email=RESEARCHER.email,
            password_hash="$argon2id$nobody logs in",
            role="researcher",
            organisation="default",
            now=now,
            new_id=lambda _prefix: RESEARCHER.id,
        )
        token = auth.issue(
            session,
            user_id=RESEARCHER.id,
            label="audit",
            now=now,
            hours=24.0,
            new_id=services.new_id,
        )
    app = create_app(settings, services)
    app.state.nudge = lambda: None
    notary: Notary = app.state.notary
    # Equal randomness here, too: one key for the log.
    kept = bench.home / "log-keys"
    if not kept.exists():
        log_keys.first(kept, "privacy-gateway/audit")
    shutil.copytree(kept, settings.key_directory())
    notary.open()
    return TestClient(app, headers={"Authorization": f"Bearer {token.text}"}), notary


def _read(seen: Seen, client: TestClient, moment: str, known: dict[str, str]) -> None:
    """Every page, whatever is answered."""
    paths: dict[str, Any] = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    for template, methods in paths.items():
        if "get" not in methods or (template.endswith("/events") and moment != "after"):
            continue  # a stream ends with its job; after the end it tells everything again
        path = template.format_map(_Known(known))
        seen.pages[f"{moment} GET {template}"] = _bytes(client.get(path))
    for whose, job in (("own", known["job_id"]), ("another's", "job_of_somebody_else")):
        answer = client.get(f"/v1/jobs/{job}/result", params={"format": "safetensors"})
        seen.pages[f"{moment} GET {whose} as safetensors"] = _bytes(answer)


class _Known(dict[str, str]):
    """Ids by the name of the parameter; a number where there is none."""

    def __missing__(self, name: str) -> str:
        return "1"


def _bytes(answer: Any) -> bytes:
    headers = sorted(f"{name}: {value}" for name, value in answer.headers.items())
    content = answer.content
    if b"privacy_gateway_http_seconds" in content:
        content = _DOOR.sub(b"", content)
        headers = [line for line in headers if not line.startswith("content-length")]
    return "\n".join([str(answer.status_code), *headers, ""]).encode() + content
