package examples.open_lab_test

import data.examples.open_lab

job := {
	"job": {"purpose": "teaching", "rounds": 60, "clients_per_round": 200},
	"cost": {"epsilon_nano": 5000000000},
	"derived": {"noise_multiplier_ppm": 800000},
}

codes(document) := {denial.code | some denial in open_lab.decision.deny with input as document}

test_a_lesson_is_allowed if {
	open_lab.decision.allow with input as job
}

test_the_announced_call_is_denied_for_its_price if {
	document := object.union(job, {
		"cost": {"epsilon_nano": 2267177095700},
		"derived": {"noise_multiplier_ppm": 50000},
	})
	codes(document) == {"price_above_limit", "noise_below_limit"}
}

test_an_unknown_purpose_is_denied if {
	codes(object.union(job, {"job": {"purpose": "marketing"}})) == {"purpose_not_allowed"}
}

test_a_cohort_of_one_is_denied if {
	codes(object.union(job, {"job": {"clients_per_round": 1}})) == {"cohort_below_limit"}
}
