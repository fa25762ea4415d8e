package examples.university_course_test

import data.examples.university_course

job := {
	"request": {"weekday": "wednesday"},
	"subject": {"roles": ["researcher"]},
	"job": {
		"purpose": "coursework",
		"rounds": 20,
		"clients_per_round": 40,
		"model": {"parameters": 7850},
	},
	"cost": {"epsilon_nano": 400000000, "budget_epsilon_nano_after": 900000000},
	"budget": {"epsilon_nano": 8000000000},
	"history": {"jobs_by_subject": 1, "charged_epsilon_nano_by_subject": 500000000},
	"derived": {"noise_multiplier_ppm": 800000},
}

answer(change) := decision if {
	decision := university_course.decision with input as object.union(job, change)
}

codes(change) := {denial.code | some denial in answer(change).deny}

test_coursework_is_allowed if {
	answer({}).allow
	answer({}).approvals == set()
}

test_a_dearer_job_needs_the_owner if {
	change := {
		"cost": {"epsilon_nano": 500000001},
		"history": {"charged_epsilon_nano_by_subject": 0},
	}
	answer(change).allow
	answer(change).approvals == {{"role": "owner", "count": 1, "within_hours": 72}}
}

test_results_leave_after_a_day if {
	{"type": "release_delay_hours", "value": 24} in answer({}).obligations
}

test_a_share_of_one_is_the_most if {
	answer({"history": {"charged_epsilon_nano_by_subject": 600000000}}).allow
	change := {"history": {"charged_epsilon_nano_by_subject": 600000001}}
	codes(change) == {"quota_above_limit"}
}

test_ten_jobs_are_the_most if {
	answer({"history": {"jobs_by_subject": 9}}).allow
	codes({"history": {"jobs_by_subject": 10}}) == {"jobs_above_limit"}
}

test_weekends_are_free if {
	codes({"request": {"weekday": "sunday"}}) == {"weekday_not_allowed"}
}

test_other_purposes_are_denied if {
	codes({"job": {"purpose": "research"}}) == {"purpose_not_allowed"}
}

test_other_roles_are_denied if {
	codes({"subject": {"roles": ["auditor"]}}) == {"role_not_allowed"}
}

test_large_models_are_denied if {
	codes({"job": {"model": {"parameters": 100001}}}) == {"parameters_above_limit"}
}

test_too_many_rounds_and_too_little_noise_are_both_named if {
	change := {"job": {"rounds": 101}, "derived": {"noise_multiplier_ppm": 499999}}
	codes(change) == {"rounds_above_limit", "noise_below_limit"}
}
