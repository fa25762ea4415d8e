# METADATA
# title: Who may talk to the policy server
# description: >
#   Everybody may ask whether it lives. Only who shows the token may publish and ask policies, below
#   the three roots the gateway uses; the system's own documents are closed to everybody. The server
#   is told the token's hash, and keeps it.
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
	below_our_roots("policies")
}

ours if {
	input.method == "POST"
	below_our_roots("data")
}

below_our_roots(kind) if {
	input.path[0] == "v1"
	input.path[1] == kind
	input.path[2] in {"library", "revisions", "tests"}
}
