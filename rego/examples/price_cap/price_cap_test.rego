package examples.price_cap_test

import data.examples.price_cap

job := {
	"job": {"purpose": "research", "rounds": 20, "clients_per_round": 40},
	"cost": {"epsilon_nano": 1500000000, "budget_epsilon_nano_after": 1500000000},
	"budget": {"epsilon_nano": 8000000000},
	"derived": {"noise_multiplier_ppm": 800000},
}

codes(document) := {denial.code | some denial in price_cap.decision.deny with input as document}

test_a_modest_job_is_allowed if {
	price_cap.decision.allow with input as job
}

test_two_jobs_run_at_a_time if {
	obligation := {"type": "max_parallel_jobs", "value": 2}
	obligation in price_cap.decision.obligations with input as job
}

test_the_cap_itself_is_allowed if {
	price_cap.decision.allow with input as job with input.cost.epsilon_nano as 2000000000
}

test_a_billionth_above_the_cap_is_denied if {
	document := object.union(job, {"cost": {"epsilon_nano": 2000000001}})
	codes(document) == {"price_above_limit"}
}

test_an_unknown_purpose_is_denied if {
	codes(object.union(job, {"job": {"purpose": "marketing"}})) == {"purpose_not_allowed"}
}

test_too_little_noise_is_denied if {
	document := object.union(job, {"derived": {"noise_multiplier_ppm": 50000}})
	codes(document) == {"noise_below_limit"}
}

test_a_cohort_of_one_is_denied if {
	codes(object.union(job, {"job": {"clients_per_round": 1}})) == {"cohort_below_limit"}
}

test_what_the_budget_cannot_pay_is_denied if {
	document := object.union(job, {"cost": {"budget_epsilon_nano_after": 8000000001}})
	codes(document) == {"over_budget"}
}

test_every_rule_that_fires_is_named if {
	codes({}) == {
		"purpose_not_allowed",
		"price_above_limit",
		"over_budget",
		"noise_below_limit",
		"cohort_below_limit",
	}
}
