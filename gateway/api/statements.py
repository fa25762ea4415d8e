"""Signed statements of account, as JSON for programs and as a page for people.

The page is made from the signed JSON, holds it, and is signed as a whole. It has no script and asks
for nothing from anywhere. This module must never print a figure that is not in the statement.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse

from accounting import log_keys
from accounting.statement import statement
from gateway import scope, statement_page
from gateway.deps import Moment, Outside, OwnerOrAuditor

router = APIRouter(prefix="/v1/statements", tags=["ledger"])

_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/html": {"schema": {"type": "string"}},
        }
    }
}


@router.get("", responses=_CONTENT, response_class=Response)
def show(
    services: Outside,
    caller: OwnerOrAuditor,
    population: Annotated[str, Query(max_length=100)],
    since: Annotated[
        Moment | None, Query(alias="from", description="else all from the beginning")
    ] = None,
    until: Annotated[
        Moment | None, Query(alias="to", description="exclusive; else until now")
    ] = None,
    form: Annotated[Literal["json", "html"], Query(alias="format")] = "json",
) -> Response:
    """What a population's budget went through in [from, to), signed by the keys of the log."""
    with services.database.read() as session:
        scope.population(session, caller, population)
        signers = log_keys.signers(services.settings.key_directory())
        document = statement(
            session,
            signers,
            population_id=population,
            since=since,
            until=until,
            now=services.clock(),
        )
    if form == "json":
        return JSONResponse(document)
    page = statement_page.signed_page(document, signers)
    headers = {"Content-Security-Policy": statement_page.CONTENT_SECURITY_POLICY}
    return HTMLResponse(page, headers=headers)
