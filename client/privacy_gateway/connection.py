"""HTTP to one gateway: a token, safe retries, and problem documents turned into `Refused`.

A request is repeated only where repeating cannot do anything twice: reads, quotes, and posts that
carry an idempotency key. A token must never appear in a message, a repr or a log line.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import time
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from privacy_gateway.errors import CODES, FieldError, Refused

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
ANSWER_BYTES = 64 << 20
_SHA_256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Whom a connection without TLS trusts.
_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_PROBLEM_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "errors", "instance"})


class Connection:
    """One gateway as one account.

    Args:
        url: address of the gateway, `http://…` or `https://…`.
        token: bearer token; None before login.
        timeout_seconds: of one request.
        transport: replaces the network (tests, in-process gateways).
        pause: sleeps between attempts; injected by tests.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = _checked_url(url)
        self._pause = pause
        headers = {"User-Agent": "privacy-gateway-client", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        # Proxies from the environment must not receive requests for this very machine.
        trust_env = urlsplit(self.url).hostname not in _LOOPBACK
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout_seconds,
            transport=transport,
            trust_env=trust_env,
            # Reading whom to trust takes longer than a request.
            verify=True if trust_env or self.url.startswith("https") else _NOBODY,
        )

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def authenticate(self, token: str) -> None:
        """Use `token` from now on."""
        self._http.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, **params: Any) -> Any:
        """JSON answer of a read; parameters that are None are left out."""
        return self.call("GET", path, params=_given(params), repeatable=True)

    def post(self, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        """JSON answer of a post; `repeatable` where a second delivery changes nothing."""
        return self.call("POST", path, json=body, repeatable=repeatable)

    def call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """JSON answer of one request (None for an empty one).

        Raises:
            Refused: what the gateway said, or `unavailable` when it could not be reached.
        """
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or not repeatable
            try:
                response = self._http.request(method, path, headers=headers, **options)
            except httpx.TransportError as error:
                if last:
                    raise self._unreachable(error) from error
                self._pause(_pause_seconds(attempt, None))
                continue
            if last or not _try_again(response):
                return _answer(response)
            self._pause(_pause_seconds(attempt, response.headers.get("Retry-After")))
        raise AssertionError  # the last attempt returned or raised

    def text(self, method: str, path: str, body: Any = None) -> str:
        """Answer of one request that is text and not JSON.

        Raises:
            Refused: what the gateway said, or `unavailable` when it could not be reached.
        """
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            _raise_problem(response)
        return response.text

    def pages(self, path: str, *, limit: int | None = None, **params: Any) -> Iterator[Any]:
        """Items of a listing, page after page, at most `limit` in all."""
        after: str | None = None
        seen = 0
        while True:
            page = self.get(path, after=after, **params)
            for item in page["items"]:
                yield item
                seen += 1
                if limit is not None and seen >= limit:
                    return
            after = page.get("next")
            if after is None:
                return

    @contextmanager
    def stream(self, path: str, **params: Any) -> Iterator[Iterator[bytes]]:
        """Bytes of a download in blocks, never held whole.

        Raises:
            Refused: `unavailable` after the last block when they are not those the gateway told of.
        """
        try:
            with self._http.stream("GET", path, params=_given(params)) as response:
                if response.is_error:
                    response.read()
                    _raise_problem(response)
                yield _as_told(response.iter_bytes(), response.headers)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Give the sockets back."""
        self._http.close()

    def _unreachable(self, error: Exception) -> Refused:
        kind = (
            "did not answer in time"
            if isinstance(error, httpx.TimeoutException)
            else ("cannot be reached")
        )
        return Refused("unavailable", f"the gateway at {self.url} {kind}; is it up?")


def _as_told(blocks: Iterable[bytes], headers: httpx.Headers) -> Iterator[bytes]:
    """Blocks as they come, of a file whose SHA-256 may have been told (RFC 9530)."""
    found = hashlib.sha256()
    for block in blocks:
        found.update(block)
        yield block
    told = _SHA_256.search(headers.get("repr-digest", ""))
    # Of a file that somebody compressed on the way the hash may be of either.
    if told is None or "content-encoding" in headers:
        return
    if told[1] != b64encode(found.digest()).decode():
        raise Refused("unavailable", "the download is damaged; take it again")


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"Expected a url such as http://127.0.0.1:8081, not {url!r}")
    if parts.username or parts.password:
        raise ValueError("Expected no password inside the url")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        warnings.warn(
            f"no TLS to {parts.hostname}: passwords and tokens can be read on the way",
            stacklevel=4,
        )
    return url.rstrip("/")


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _try_again(response: httpx.Response) -> bool:
    """Gateway overloaded or restarting; a policy that cannot answer is a decision, not a hiccup."""
    if response.status_code in (502, 504):
        return True
    return response.status_code == 503 and _problem(response).get("code") in (None, "unavailable")


def _pause_seconds(attempt: int, retry_after: str | None) -> float:
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), LONGEST_PAUSE_SECONDS)
    return float(min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS))


def _answer(response: httpx.Response) -> Any:
    if response.is_error:
        _raise_problem(response)
    if not response.content:
        return None
    try:
        return response.json()
    except json.JSONDecodeError as error:
        raise Refused(
            "unavailable", "the answer is not JSON; is this a privacy gateway?"
        ) from error


def _problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document, or nothing where something else than a gateway answered."""
    try:
        document = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _raise_problem(response: httpx.Response) -> NoReturn:
    """Raise the `Refused` that the gateway described."""
    document = _problem(response)
    code = document.get("code")
    detail = str(document.get("detail") or f"HTTP {response.status_code}")
    if not isinstance(code, str):
        code, detail = "unavailable", f"{detail} from something that is not a privacy gateway"
    elif code not in CODES:
        # A newer gateway may know more codes than this client.
        code, detail = "conflict", f"{code}: {detail}"
    errors = [
        FieldError(str(e.get("field")), str(e.get("message")), e.get("value"), e.get("limit"))
        for e in document.get("errors") or []
        if isinstance(e, dict)
    ]
    facts = {name: fact for name, fact in document.items() if name not in _PROBLEM_MEMBERS}
    raise Refused(code, detail, errors=errors, **facts)
