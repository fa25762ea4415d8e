package system.authz_test

import data.system.authz

access := {"token_sha256": crypto.sha256("right")}

ask(request) if {
	whole := object.union({"params": strict}, request)
	authz.allow with input as whole with data.gateway_access as access
}

strict := {"strict-builtin-errors": ["true"], "provenance": ["true"]}

question := {"method": "POST", "path": ["v1", "data", "revisions", "r1"], "identity": "right"}

test_health_is_open if ask({"method": "GET", "path": ["health"]})

test_the_token_publishes_and_asks if {
	ask({"method": "PUT", "path": ["v1", "policies", "revisions", "r1"], "identity": "right"})
	ask({"method": "DELETE", "path": ["v1", "policies", "tests", "t1"], "identity": "right"})
	ask({"method": "POST", "path": ["v1", "data", "revisions", "r1"], "identity": "right"})
	ask({"method": "POST", "path": ["v1", "data", "library", "none"], "identity": "right"})
}

test_what_came_in_a_bundle_is_asked_and_not_changed if {
	ask({"method": "POST", "path": ["v1", "data", "bundled", "revisions"], "identity": "right"})
	not ask({"method": "PUT", "path": ["v1", "policies", "bundled", "p"], "identity": "right"})
	not ask({"method": "DELETE", "path": ["v1", "policies", "bundled", "p"], "identity": "right"})
	not ask({"method": "PUT", "path": ["v1", "data", "bundled"], "identity": "right"})
}

test_another_token_does_nothing if {
	not ask({"method": "POST", "path": ["v1", "data", "revisions", "r1"], "identity": "wrong"})
	not ask({"method": "POST", "path": ["v1", "data", "revisions", "r1"], "identity": ""})
	not ask({"method": "POST", "path": ["v1", "data", "revisions", "r1"]})
}

test_system_documents_are_closed if {
	not ask({"method": "PUT", "path": ["v1", "policies", "system", "authz"], "identity": "right"})
	not ask({"method": "POST", "path": ["v1", "data", "system"], "identity": "right"})
	not ask({"method": "POST", "path": ["v1", "data", "gateway_access"], "identity": "right"})
	not ask({"method": "POST", "path": ["v1", "data"], "identity": "right"})
	not ask({"method": "GET", "path": ["v1", "config"], "identity": "right"})
	not ask({"method": "POST", "path": ["v1", "query"], "identity": "right"})
}

test_a_question_is_strict_and_wants_to_know_who_answers if {
	ask(question)
	every params in [
		{},
		{"provenance": ["true"]},
		{"strict-builtin-errors": ["true"]},
		object.union(strict, {"strict-builtin-errors": ["false"]}),
		object.union(strict, {"strict-builtin-errors": ["true", "false"]}),
	] {
		not asked_with(params)
	}
}

asked_with(params) if {
	whole := object.union(question, {"params": params})
	authz.allow with input as whole with data.gateway_access as access
}
