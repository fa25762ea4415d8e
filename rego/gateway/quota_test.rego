package gateway.quota_test

import data.gateway.quota

test_jobs_count_this_one if {
	not quota.jobs_at_most(3) with input.history.jobs_by_subject as 2
	quota.jobs_at_most(3) with input.history.jobs_by_subject as 3
}

test_epsilon_counts_this_job if {
	before := {
		"history": {"charged_epsilon_nano_by_subject": 6},
		"cost": {"epsilon_nano": 4},
	}
	not quota.epsilon_at_most(10) with input as before
	quota.epsilon_at_most(9) with input as before
}

test_a_share_is_needed if {
	not quota.project_with_share with input.budget.project_quota as {"limited": true}
	quota.project_with_share with input.budget.project_quota as {"limited": false}
	quota.project_with_share with input.budget.project_quota as {"limited": "true"}
	quota.project_with_share with input as {}
}

test_a_part_of_the_projects_share if {
	document := {"cost": {"epsilon_nano": 5}, "budget": {"project_quota": {"epsilon_nano": 20}}}
	not quota.job_percent_of_project_at_most(25) with input as document
	denial := quota.job_percent_of_project_at_most(24) with input as document
	denial.message == "the job costs more than 24 per cent of its project's share"
	text := object.union(document, {"budget": {"project_quota": {"epsilon_nano": "20"}}})
	quota.job_percent_of_project_at_most(25) with input as text
	quota.job_percent_of_project_at_most(25) with input as {}
}

test_the_first_job_may_start_at_once if {
	not quota.hours_between_jobs(24) with input.history.last_job_time as null
}

test_a_later_job_waits if {
	moments := {
		"history": {"last_job_time": "2026-01-31T08:00:00.000000Z"},
		"request": {"time_ns": time.parse_rfc3339_ns("2026-01-31T10:00:00Z")},
	}
	not quota.hours_between_jobs(2) with input as moments
	quota.hours_between_jobs(3) with input as moments
}
