"""Who owns how much of a budget, over HTTP: blocks of people, shares, projects, second persons.

Every method is one request of an owner or administrator.
"""

from __future__ import annotations

from typing import Any, Literal

from privacy_gateway.connection import Connection
from privacy_gateway.views import BlockView, ProjectQuotaView, ProjectView, ProposalView

Decision = Literal["approve", "reject", "withdraw"]


class Shares:
    """The requests of one connection about parts of budgets."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open_block(self, population_id: str, name: str, *, clients: int, reason: str) -> BlockView:
        """Open a block: people who are in no other block of the population."""
        body = {"name": name, "clients": clients, "reason": reason}
        path = f"/v1/populations/{population_id}/blocks"
        return BlockView.model_validate(self._connection.post(path, body))

    def blocks(self, population_id: str, *, check: bool = False) -> list[BlockView]:
        """A population's blocks; with `check`, whether members are those the ledger sealed."""
        path = f"/v1/populations/{population_id}/blocks" + ("?check=true" if check else "")
        return [BlockView.model_validate(row) for row in self._connection.get(path)]

    def set_project_quota(
        self, population_id: str, project: str, *, epsilon: float
    ) -> ProjectQuotaView:
        """Limit one project's share of a budget."""
        path = f"/v1/populations/{population_id}/project-quotas/{project}"
        body = {"epsilon": float(epsilon)}
        answer = self._connection.call("PUT", path, json=body, repeatable=True)
        return ProjectQuotaView.model_validate(answer)

    def set_second_person(self, population_id: str, *, needed: bool, reason: str) -> Any:
        """Ask for a second person before a raise; to stop asking answers a proposal."""
        path = f"/v1/populations/{population_id}/second-person"
        return self._connection.call("PUT", path, json={"needed": needed, "reason": reason})

    def proposals(self) -> list[ProposalView]:
        """What waits, or waited, for a second person."""
        rows = self._connection.get("/v1/proposals?limit=1000")["items"]
        return [ProposalView.model_validate(row) for row in rows]

    def decide(self, proposal_id: str, decision: Decision, *, note: str = "") -> ProposalView:
        """Approve or reject somebody else's proposal, or withdraw one's own."""
        path = f"/v1/proposals/{proposal_id}/decision"
        answer = self._connection.post(path, {"decision": decision, "note": note})
        return ProposalView.model_validate(answer)

    def create_project(self, name: str, *, title: str) -> ProjectView:
        """Make a project (administrators)."""
        answer = self._connection.post("/v1/projects", {"name": name, "title": title})
        return ProjectView.model_validate(answer)

    def projects(self) -> list[ProjectView]:
        """The projects one is a member of; administrators see all."""
        rows = self._connection.get("/v1/projects?limit=1000")["items"]
        return [ProjectView.model_validate(row) for row in rows]

    def add_member(self, project: str, researcher: str) -> ProjectView:
        """Let a researcher charge jobs to a project (administrators)."""
        path = f"/v1/projects/{project}/members/{researcher}"
        return ProjectView.model_validate(self._connection.call("PUT", path, repeatable=True))

    def remove_member(self, project: str, researcher: str) -> None:
        """End a membership (administrators)."""
        path = f"/v1/projects/{project}/members/{researcher}"
        self._connection.call("DELETE", path)
