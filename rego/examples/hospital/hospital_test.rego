package examples.hospital_test

import data.examples.hospital

job := {
	"subject": {"roles": ["researcher"], "organisation": "st_mary"},
	"job": {"purpose": "clinical_research", "rounds": 40, "clients_per_round": 60},
	"cost": {"epsilon_nano": 900000000, "budget_epsilon_nano_after": 3000000000},
	"budget": {"epsilon_nano": 4000000000},
	"derived": {"noise_multiplier_ppm": 1100000, "sampling_rate_ppm": 60000},
}

answer(change) := decision if {
	decision := hospital.decision with input as object.union(job, change)
}

codes(change) := {denial.code | some denial in answer(change).deny}

owner := {"role": "owner", "count": 1, "within_hours": 72}

auditor := {"role": "auditor", "count": 1, "within_hours": 72}

test_every_job_waits_for_the_owner if {
	answer({}).allow
	answer({}).approvals == {owner}
}

test_above_one_an_auditor_agrees_too if {
	answer({"cost": {"epsilon_nano": 1000000000}}).approvals == {owner}
	answer({"cost": {"epsilon_nano": 1000000001}}).approvals == {owner, auditor}
}

test_patients_are_kept_apart_and_results_wait if {
	answer({}).obligations == {
		{"type": "isolation", "value": "per_client_group"},
		{"type": "release_delay_hours", "value": 48},
	}
}

test_two_is_the_most_a_job_may_cost if {
	answer({"cost": {"epsilon_nano": 2000000000}}).allow
	codes({"cost": {"epsilon_nano": 2000000001}}) == {"price_above_limit"}
}

test_a_round_takes_one_patient_in_five_at_most if {
	answer({"derived": {"sampling_rate_ppm": 200000}}).allow
	codes({"derived": {"sampling_rate_ppm": 200001}}) == {"sampling_rate_above_limit"}
}

test_a_small_cohort_hides_nobody if {
	answer({"job": {"clients_per_round": 50}}).allow
	codes({"job": {"clients_per_round": 49}}) == {"cohort_below_limit"}
}

test_other_houses_are_not_let_in if {
	answer({"subject": {"organisation": "university_hospital"}}).allow
	codes({"subject": {"organisation": "insurer"}}) == {"organisation_not_allowed"}
}

test_a_student_alone_may_not_ask if {
	codes({"subject": {"roles": ["student"]}}) == {"role_not_allowed"}
}

test_marketing_is_no_purpose if {
	codes({"job": {"purpose": "marketing"}}) == {"purpose_not_allowed"}
}

test_little_noise_is_denied if {
	codes({"derived": {"noise_multiplier_ppm": 799999}}) == {"noise_below_limit"}
}

test_what_the_budget_cannot_pay_is_denied if {
	codes({"cost": {"budget_epsilon_nano_after": 4000000001}}) == {"over_budget"}
}
