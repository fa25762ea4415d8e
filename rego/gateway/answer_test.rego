package gateway.answer_test

import data.gateway.answer
import data.gateway.approvals
import data.gateway.denial
import data.gateway.obligations

test_nothing_denied_is_allowed if {
	answer.plain(set()) == {
		"allow": true,
		"deny": set(),
		"approvals": set(),
		"obligations": set(),
	}
}

test_one_denial_forbids if {
	one := denial.of("some_code", "some.field", "a sentence", 3)
	not answer.plain({one}).allow
	answer.plain({one}).deny == {one}
}

test_parts_are_passed_on if {
	asked := {approvals.by("owner", 2, 48)}
	kept := {
		obligations.outputs({"receipt"}),
		obligations.max_parallel_jobs(1),
		obligations.release_delay_hours(24),
		obligations.isolation("per_client_group"),
	}
	decision := answer.of(set(), asked, kept)
	decision.allow
	decision.approvals == {{"role": "owner", "count": 2, "within_hours": 48}}
	count(decision.obligations) == 4
}

test_approvals_above_a_price if {
	not approvals.by_above(10, "owner", 1, 72) with input.cost.epsilon_nano as 10
	approvals.by_above(10, "owner", 1, 72) with input.cost.epsilon_nano as 11
	approvals.by_above(10, "owner", 1, 72) with input as {}
}
