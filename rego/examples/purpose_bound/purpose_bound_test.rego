package examples.purpose_bound_test

import data.examples.purpose_bound

job(purpose, epsilon_nano) := {
	"job": {"purpose": purpose, "clients_per_round": 40},
	"cost": {"epsilon_nano": epsilon_nano, "budget_epsilon_nano_after": epsilon_nano},
	"budget": {"epsilon_nano": 8000000000},
	"derived": {"noise_multiplier_ppm": 800000},
}

codes(document) := {denial.code |
	some denial in purpose_bound.decision.deny with input as document
}

test_each_purpose_may_spend_its_cap if {
	every purpose, cap in purpose_bound.caps {
		purpose_bound.decision.allow with input as job(purpose, cap)
		codes(job(purpose, cap + 1)) == {"price_above_limit"}
	}
}

test_a_lesson_may_not_cost_what_safety_may if {
	codes(job("teaching", 3000000000)) == {"price_above_limit"}
	codes(job("drug_safety", 3000000000)) == set()
}

test_an_unknown_purpose_is_denied_whatever_it_costs if {
	"purpose_not_allowed" in codes(job("marketing", 1))
	"purpose_not_allowed" in codes(job("Teaching", 1))
}

test_the_limit_is_told if {
	some denial in purpose_bound.decision.deny with input as job("teaching", 600000000)
	denial.limit == 500000000
	denial.message == "the job costs ε = 0.6; at most 0.5 is allowed"
}

test_little_noise_small_cohorts_and_empty_budgets_are_denied if {
	document := object.union(job("research", 1), {
		"job": {"clients_per_round": 9},
		"cost": {"budget_epsilon_nano_after": 8000000001},
		"derived": {"noise_multiplier_ppm": 499999},
	})
	codes(document) == {"noise_below_limit", "cohort_below_limit", "over_budget"}
}
