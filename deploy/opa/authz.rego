# METADATA
# title: Who may talk to the policy server
# description: >
#   Everybody may ask whether it lives. Only who shows the token may publish and ask policies, and
#   nobody may read the system's own documents: the server is told the token's hash, and keeps it.
package system.authz

default allow := false

allow if {
	input.method == "GET"
	input.path == ["health"]
}

allow if {
	known
	input.path[0] == "v1"
	input.path[1] in {"policies", "data"}
	count(input.path) > 2
	not input.path[2] in {"system", "gateway_access"}
}

allow if {
	known
	input.method == "GET"
	input.path == ["v1", "policies"]
}

known if crypto.sha256(input.identity) == data.gateway_access.token_sha256
