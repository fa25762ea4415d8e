"""The composition really comes up, is as closed as it claims, and plays the README's story.

Opt-in by circumstance: it runs where a Docker engine answers. Base images are stand-ins made from
Debian's packages, so no image registry is needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from gateway.demo import story
from tests.support.composition import Composition, composition, require_engine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

ROOM = "com.docker.compose.service"
CLOSED_ROOMS = {"worker", "postgres", "redis", "opa", "migrate"}


def test_the_composition_comes_up_closed_and_plays_the_story(tmp_path: Path) -> None:
    """One composition for all of it: two workers, real PostgreSQL, Redis and OPA."""
    require_engine()
    with composition(tmp_path, workers=2) as running:
        _all_as_intended(running)
        _no_way_out(running)
        _no_secret_in_sight(running)
        _images_hold_what_they_need(running)
        outcome = story.tell(Console(quiet=True), running.gateway, tmp_path)
        _keys_are_with_their_signer(running)
        _bundles_decided(running)
        _witness_is_out_of_reach(running)
    assert outcome.announced_price == pytest.approx(2267.18, abs=0.01)
    assert outcome.accuracy >= 0.80
    assert outcome.audit_ok
    assert outcome.damage_found[0].kind == "altered"


def _all_as_intended(running: Composition) -> None:
    """Two workers, everything healthy or properly finished; nobody is root or may become it."""
    containers = running.containers()
    rooms = sorted(each["Config"]["Labels"][ROOM] for each in containers)
    assert rooms == ["gateway", "migrate", "opa", "postgres", "redis", "worker", "worker"]
    for each in containers:
        room, state, host = each["Config"]["Labels"][ROOM], each["State"], each["HostConfig"]
        if room == "migrate":
            assert (state["Status"], state["ExitCode"]) == ("exited", 0)
        else:
            assert state["Health"]["Status"] == "healthy", room
        assert each["Config"]["User"] not in {"", "0", "root"}, room
        assert host["ReadonlyRootfs"], room
        assert host["CapDrop"] == ["ALL"], room
        assert "no-new-privileges:true" in host["SecurityOpt"], room
    for room in ("gateway", "worker", "postgres", "redis"):  # the image of OPA holds OPA alone
        status = running.compose("exec", "--no-TTY", room, "cat", "/proc/self/status")
        assert "CapEff:\t0000000000000000" in status, room


def _no_way_out(running: Composition) -> None:
    """All but the gateway are on networks that lead nowhere; only it has a port, on loopback."""
    internal = running.networks()
    assert internal == {"front": False, "database": True, "broker": True, "policy": True}
    for each in running.containers():
        room, settings = each["Config"]["Labels"][ROOM], each["NetworkSettings"]
        names = {name.removeprefix(f"{running.project}_") for name in settings["Networks"]}
        published = [port for ports in (settings["Ports"] or {}).values() for port in ports or []]
        assert {port["HostIp"] for port in published} <= {"127.0.0.1"}, room
        if room in CLOSED_ROOMS:
            assert all(internal[name] for name in names), room
            assert published == [], room


def _no_secret_in_sight(running: Composition) -> None:
    """Secrets come by file: neither an environment nor a command line shows one."""
    folder = Path(running.environment["SECRETS"])
    values = [file.read_text(encoding="ascii").strip() for file in folder.iterdir()]
    for each in running.containers():
        shown = " ".join([*each["Config"]["Env"], each["Path"], *each["Args"]])
        assert not any(value in shown for value in values), each["Name"]


def _images_hold_what_they_need(running: Composition) -> None:
    """No TensorFlow in the gateway's image, no web framework in the worker's."""
    program = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, sys.argv[1:])))"
    for room, absent in (("gateway", ["tensorflow", "keras"]), ("worker", ["fastapi", "uvicorn"])):
        running.compose("exec", "--no-TTY", room, "python3", "-c", program, *absent)


def _keys_are_with_their_signer(running: Composition) -> None:
    """The gateway, which signs, has the log's private keys; a worker sees an empty folder."""
    look = ["find", "/var/lib/privacy-gateway/keys", "-type", "f"]
    assert running.compose("exec", "--no-TTY", "gateway", *look).split()
    assert not running.compose("exec", "--no-TTY", "worker", *look).split()


def _bundles_decided(running: Composition) -> None:
    """Every verdict of the story came from OPA, which takes policies by signed bundle alone."""
    assert "OPA_BUNDLES=true" in running.containers_of("gateway")[0]["Config"]["Env"]
    answered = running.sql("SELECT DISTINCT engine, fault FROM decision WHERE outcome <> 'deny'")
    assert answered == ["opa|"]


def _witness_is_out_of_reach(running: Composition) -> None:
    """A worker cannot rewrite what tells a restored backup."""
    attempt = ["sh", "-c", "echo x > /var/lib/privacy-gateway-witness/x 2>/dev/null || echo closed"]
    assert running.compose("exec", "--no-TTY", "worker", *attempt).strip() == "closed"
