"""Signed bundles: a real OPA server takes policies from the holder of the key and nobody else."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from policies.activation import examine
from policies.ask import ask
from policies.bundle import ALGORITHM, Bundle, BundleKey, build
from policies.embedded import EmbeddedEngine
from policies.engine import Revision
from policies.errors import EngineFailed, Fault
from policies.opa import OpaEngine
from policies.publication import BUNDLED, Publication, publication
from tests.support.engines import new_bundle_key, opa_configuration, opa_server
from tests.support.questions import ALLOW_ALL, example, question
from tests.support.servers import wait_until

OPEN = Revision.of_text(ALLOW_ALL)
OTHER = Revision.of_text(ALLOW_ALL + "\nother := true\n")
PATIENCE = 60.0
SIGNATURES = ".signatures.json"


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def bundled(revision: Revision) -> Publication:
    return publication(revision.source, BUNDLED)


def files_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {member.name: _content(tar, member) for member in tar}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def repacked(archive: bytes, changed: str, by: bytes) -> bytes:
    """The archive with the file replaced whose name ends so."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files_of(archive).items():
            body = by if name.endswith(changed) else content
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return gzip.compress(packed.getvalue())


class Shelf:
    """An HTTP server that hands out whatever bundle lies on it to who shows the token."""

    def __init__(self) -> None:
        self.bundle: Bundle | None = None
        self.asked = 0
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shelf.asked += 1
                known = self.headers.get("Authorization") == "Bearer the-token"
                if not known or shelf.bundle is None:
                    self.send_response(401 if not known else 404)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(shelf.bundle.archive)))
                self.end_headers()
                self.wfile.write(shelf.bundle.archive)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_until_looked_at(self, times: int = 2) -> None:
        """Until the server came again, so what lay here before was taken or refused."""
        until = self.asked + times
        wait_until(lambda: self.asked >= until, what="OPA's next look at the shelf")


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.close()


@pytest.fixture
def key() -> BundleKey:
    return new_bundle_key()


@pytest.fixture
def server(opa_binary: str, shelf: Shelf, key: BundleKey, tmp_path: Path) -> Iterator[str]:
    config = tmp_path / "opa.json"
    config.write_text(json.dumps(opa_configuration(shelf.url, "bundle", "the-token", key)))
    with opa_server(opa_binary, tmp_path, config=config) as url:
        yield url


@pytest.fixture
def engine(server: str) -> Iterator[OpaEngine]:
    engine = OpaEngine(server, bundled=True)
    yield engine
    engine.close()


def test_what_is_in_the_bundle_decides_and_nothing_else(
    engine: OpaEngine, shelf: Shelf, key: BundleKey
) -> None:
    assert engine.evaluate(OPEN, question().canonical, PATIENCE).fault is Fault.STALE_REVISION
    assert not engine.health().ok
    shelf.bundle = build([bundled(OPEN)], key)
    engine.ready(OPEN, PATIENCE)
    assert engine.evaluate(OPEN, question().canonical, PATIENCE).answer["allow"]
    assert engine.health().ok
    assert engine.version.endswith(f"bundle {shelf.bundle.revision[:16]}")
    assert engine.evaluate(OTHER, question().canonical, PATIENCE).fault is Fault.STALE_REVISION


def test_a_new_bundle_replaces_the_old_one_whole(
    engine: OpaEngine, shelf: Shelf, key: BundleKey
) -> None:
    shelf.bundle = build([bundled(OPEN)], key)
    engine.ready(OPEN, PATIENCE)
    shelf.bundle = build([bundled(OTHER)], key)
    engine.ready(OTHER, PATIENCE)
    assert engine.evaluate(OPEN, question().canonical, PATIENCE).fault is Fault.STALE_REVISION


@pytest.mark.parametrize("fault", ["another key", "changed file", "no signature", "other scope"])
def test_what_the_key_did_not_sign_is_not_taken(
    engine: OpaEngine, shelf: Shelf, key: BundleKey, fault: str
) -> None:
    shelf.bundle = build([bundled(OPEN)], key)
    engine.ready(OPEN, PATIENCE)
    good = build([bundled(OTHER)], key)
    archive = {
        "another key": build([bundled(OTHER)], new_bundle_key()).archive,
        "changed file": repacked(good.archive, "envelope.rego", b"package bundled\n\nx := 1\n"),
        "no signature": repacked(good.archive, SIGNATURES, b'{"signatures":[]}'),
        "other scope": repacked(good.archive, SIGNATURES, _signed_elsewhere(good, key)),
    }[fault]
    shelf.bundle = Bundle(good.revision, archive)
    shelf.wait_until_looked_at()
    assert engine.evaluate(OTHER, question().canonical, PATIENCE).fault is Fault.STALE_REVISION
    assert engine.evaluate(OPEN, question().canonical, PATIENCE).fault is None


def _signed_elsewhere(bundle: Bundle, key: BundleKey) -> bytes:
    signatures = json.loads(files_of(bundle.archive)[SIGNATURES])["signatures"]
    payload = jwt.decode(signatures[0], key.public, algorithms=[ALGORITHM])
    payload["scope"] = "another-gateway"
    return json.dumps({"signatures": [jwt.encode(payload, key.pem, algorithm=ALGORITHM)]}).encode()


def test_nobody_can_put_a_policy_where_bundles_decide(
    server: str, engine: OpaEngine, shelf: Shelf, key: BundleKey
) -> None:
    shelf.bundle = build([bundled(OPEN)], key)
    engine.ready(OPEN, PATIENCE)
    name, text = bundled(OPEN).modules[0]
    put = httpx.put(f"{server}/v1/policies/{name}", content=text, trust_env=False)
    assert put.status_code == httpx.codes.BAD_REQUEST
    forged = f"package {bundled(OTHER).name}\n\ndecision := 1\n"
    put = httpx.put(f"{server}/v1/policies/forged.rego", content=forged, trust_env=False)
    assert put.status_code == httpx.codes.BAD_REQUEST


def test_drafts_are_tried_beside_the_bundle_and_leave_nothing(
    server: str, engine: OpaEngine, embedded: EmbeddedEngine, shelf: Shelf, key: BundleKey
) -> None:
    shelf.bundle = build([bundled(OPEN)], key)
    engine.ready(OPEN, PATIENCE)
    draft = Revision.of_text(*example("price_cap"))
    assert examine([engine, embedded], draft).passed
    assert engine.evaluate(draft, question().canonical, PATIENCE).fault is Fault.STALE_REVISION
    listed = httpx.get(f"{server}/v1/policies", trust_env=False).json()["result"]
    put = {module["id"] for module in listed if not module["id"].startswith("gateway/bundled/")}
    assert {name.partition("/")[0] for name in put} == {"library"}


def test_a_server_that_never_gets_it_is_waited_for_no_longer_than_said(engine: OpaEngine) -> None:
    with pytest.raises(EngineFailed, match="has not got it"):
        engine.ready(OPEN, 0.2)


def test_decisions_from_a_bundle_are_those_of_the_embedded_engine(
    engine: OpaEngine, embedded: EmbeddedEngine, shelf: Shelf, key: BundleKey
) -> None:
    revisions = [Revision.of_text(*example(name)) for name in ("price_cap", "hospital")]
    shelf.bundle = build(map(bundled, revisions), key)
    for revision in revisions:
        engine.ready(revision, PATIENCE)
        for asked in (question(), question(cost__epsilon_nano=10**10)):
            ours = ask(engine, revision, asked, deadline_seconds=PATIENCE)
            theirs = ask(embedded, revision, asked, deadline_seconds=PATIENCE)
            assert ours.fault is None
            assert ours.digest == theirs.digest


def test_equal_contents_give_equal_revisions_whatever_the_order(key: BundleKey) -> None:
    one, other = bundled(OPEN), bundled(OTHER)
    assert build([one, other], key).revision == build([other, one, one], new_bundle_key()).revision
    assert build([one], key).revision != build([other], key).revision


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no key",
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=["empty", "text", "Ed25519", "P-384"],
)
def test_another_kind_of_key_is_refused_without_showing_it(text: bytes) -> None:
    with pytest.raises(ValueError, match="key") as refused:
        BundleKey(text)
    assert not text or text.decode() not in str(refused.value)
