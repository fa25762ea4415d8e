package examples.project_quota_test

import data.examples.project_quota

share := {"limited": true, "epsilon_nano": 2000000000, "remaining_epsilon_nano": 2000000000}

job := {
	"job": {"purpose": "clinical_research", "project": "cardiology", "clients_per_round": 40},
	"cost": {"epsilon_nano": 400000000, "budget_epsilon_nano_after": 900000000},
	"budget": {"epsilon_nano": 8000000000, "project_quota": share},
	"derived": {"noise_multiplier_ppm": 800000},
}

answer(change) := decision if {
	decision := project_quota.decision with input as object.union(job, change)
}

codes(change) := {denial.code | some denial in answer(change).deny}

with_left(remaining) := {"budget": {"project_quota": {"remaining_epsilon_nano": remaining}}}

test_a_projects_job_is_allowed if {
	answer({}).allow
	answer({}).approvals == set()
}

test_each_project_has_its_purposes if {
	answer({"job": {"project": "drug_safety", "purpose": "quality_improvement"}}).allow
	codes({"job": {"purpose": "quality_improvement"}}) == {"purpose_not_allowed"}
}

test_a_job_outside_the_projects_is_denied if {
	expected := {"project_not_allowed", "purpose_not_allowed"}
	codes({"job": {"project": "oncology"}}) == expected
	codes({"job": {"project": ""}}) == expected
}

test_a_project_without_a_share_is_denied if {
	codes({"budget": {"project_quota": {"limited": false}}}) == {"project_without_share"}
}

test_a_quarter_of_the_share_is_the_most if {
	answer({"cost": {"epsilon_nano": 500000000}}).allow
	codes({"cost": {"epsilon_nano": 500000001}}) == {"price_above_project_share"}
}

test_the_last_fifth_needs_the_owner if {
	answer(with_left(400000000)).approvals == set()
	answer(with_left(399999999)).approvals == {{"role": "owner", "count": 1, "within_hours": 72}}
}

test_what_cannot_be_read_is_denied if {
	decision := project_quota.decision with input as {}
	not decision.allow
	decision.approvals == {{"role": "owner", "count": 1, "within_hours": 72}}
}
