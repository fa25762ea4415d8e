package examples.dwindling_budget_test

import data.examples.dwindling_budget

job(after) := {
	"job": {"purpose": "research", "clients_per_round": 40},
	"cost": {"epsilon_nano": 800, "budget_epsilon_nano_after": after},
	"budget": {"epsilon_nano": 10000},
	"derived": {"noise_multiplier_ppm": 800000},
}

answer(document) := decision if {
	decision := dwindling_budget.decision with input as document
}

asked(after) := {approval.role | some approval in answer(job(after)).approvals}

codes(change) := {denial.code | some denial in answer(object.union(job(800), change)).deny}

test_the_first_half_needs_nobody if {
	answer(job(5000)).allow
	asked(5000) == set()
}

test_beyond_half_the_owner_agrees if {
	answer(job(5001)).allow
	asked(5001) == {"owner"}
	asked(8000) == {"owner"}
}

test_the_last_fifth_needs_an_auditor_too if {
	asked(8001) == {"owner", "auditor"}
}

test_a_tenth_is_the_most_for_one_job if {
	codes({"cost": {"epsilon_nano": 1000}}) == set()
	codes({"cost": {"epsilon_nano": 1001}}) == {"price_above_share"}
}

test_nothing_is_lent if {
	codes({"cost": {"budget_epsilon_nano_after": 10001}}) == {"over_budget"}
}

test_unknown_prices_need_everybody_and_are_denied if {
	document := {"job": {"purpose": "research", "clients_per_round": 40}}
	{approval.role | some approval in answer(document).approvals} == {"owner", "auditor"}
	not answer(document).allow
}

test_other_purposes_little_noise_and_small_cohorts_are_denied if {
	change := {
		"job": {"purpose": "teaching", "clients_per_round": 9},
		"derived": {"noise_multiplier_ppm": 499999},
	}
	codes(change) == {"purpose_not_allowed", "noise_below_limit", "cohort_below_limit"}
}
