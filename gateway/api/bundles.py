"""The signed bundle an OPA server fetches. For machines: its own token, no account.

The server shows a token that opens this one route; what it gets is signed, so a thief of the token
can read the owners' policies and change nothing. Without a key there is no such route.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from gateway.deps import Outside
from gateway.settings import GatewaySettings
from policies import staging
from policies.bundle import Bundle, BundleKey, build
from policies.engine import Revision
from policies.publication import BUNDLED, publication
from privacy_gateway.errors import FieldError, Refused

router = APIRouter(prefix="/v1/bundles", include_in_schema=False)
MEDIA_TYPE = "application/gzip"


class Press:
    """Makes bundles; keeps the last one, which is asked for every second."""

    def __init__(self, key: BundleKey, token: str) -> None:
        self._key, self._token = key, token
        self._lock = threading.Lock()
        self._made: tuple[tuple[str, ...], Bundle] | None = None

    def admits(self, authorization: str | None) -> bool:
        """Whether the header carries the token, told in constant time."""
        shown = (authorization or "").removeprefix("Bearer ")
        return secrets.compare_digest(shown.encode(), self._token.encode())

    def bundle(self, revisions: Sequence[Revision]) -> Bundle:
        """The bundle of these revisions."""
        digests = tuple(sorted({revision.digest for revision in revisions}))
        with self._lock:
            if self._made is None or self._made[0] != digests:
                texts = {revision.source: None for revision in revisions}
                worlds = [publication(source, BUNDLED) for source in texts]
                self._made = digests, build(worlds, self._key)
            return self._made[1]


def press_of(settings: GatewaySettings) -> Press | None:
    """The press of a gateway whose policy server lives by bundles.

    Raises:
        Refused: `invalid_request` when key or token is missing or no key.
    """
    if not settings.opa_bundles:
        return None
    key, token = settings.opa_bundle_key, settings.opa_bundle_token
    if key is None or token is None or not token.get_secret_value():
        raise _incomplete("OPA_BUNDLES needs OPA_BUNDLE_KEY and OPA_BUNDLE_TOKEN")
    try:
        return Press(BundleKey(key.get_secret_value().encode()), token.get_secret_value())
    except ValueError as error:
        raise _incomplete(f"OPA_BUNDLE_KEY: {error}") from None


@router.get("/policies")
def policies(
    request: Request,
    services: Outside,
    authorization: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Every policy that may decide, signed; 304 when the server has it."""
    press: Press | None = request.app.state.press
    if press is None:
        raise Refused("not_found", "this gateway publishes no bundles")
    if not press.admits(authorization):
        raise Refused("unauthenticated", "the token of the policy server is needed")
    with services.database.read() as session:
        revisions = staging.held(session, now=services.clock())
    bundle = press.bundle(revisions)
    tag = f'"{bundle.revision}"'
    if if_none_match == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(bundle.archive, media_type=MEDIA_TYPE, headers={"ETag": tag})


def _incomplete(detail: str) -> Refused:
    return Refused("invalid_request", detail, errors=[FieldError("opa_bundles", detail)])
