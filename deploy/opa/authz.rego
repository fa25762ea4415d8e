# METADATA
# title: Who may talk to the policy server
# description: >
#   Everybody may ask whether it lives. Only who shows the token may ask policies, and publish those
#   on trial below the roots the gateway uses for that; what decides comes in signed bundles, and
#   nobody may put it there. A question must ask for strict builtin errors and for provenance: a
#   server has no switch for them, and without the first a broken timestamp is a yes. The system's
#   own documents are closed to everybody. The server is told the token's hash, and keeps it.
package system.authz

default allow := false

allow if {
	input.method == "GET"
	input.path == ["health"]
}

allow if {
	crypto.sha256(input.identity) == data.gateway_access.token_sha256
	ours
}

ours if {
	input.method in {"PUT", "DELETE"}
	below("policies", on_trial)
}

ours if {
	input.method == "POST"
	input.params["strict-builtin-errors"] == ["true"]
	input.params.provenance == ["true"]
	below("data", on_trial | {"bundled"})
}

on_trial := {"library", "revisions", "tests"}

below(kind, roots) if {
	input.path[0] == "v1"
	input.path[1] == kind
	input.path[2] in roots
}
