package examples.summer_school_test

import data.examples.summer_school

moment(text, weekday, minute) := {"request": {
	"time_ns": time.parse_rfc3339_ns(text),
	"weekday": weekday,
	"minute_of_day_utc": minute,
}}

monday_morning := moment("2027-07-05T08:00:00Z", "monday", 480)

job := object.union(monday_morning, {
	"job": {"purpose": "summer_school", "clients_per_round": 40},
	"cost": {"epsilon_nano": 200000000, "budget_epsilon_nano_after": 200000000},
	"budget": {"epsilon_nano": 8000000000},
	"history": {"jobs_by_subject": 0, "last_job_time": null},
	"derived": {"noise_multiplier_ppm": 1000000},
})

codes(change) := {denial.code |
	some denial in summer_school.decision.deny with input as object.union(job, change)
}

test_the_first_minute_of_the_school_is_open if {
	summer_school.decision.allow with input as job
}

test_the_night_before_is_not if {
	codes(moment("2027-07-02T10:00:00Z", "friday", 600)) == {"too_early"}
}

test_the_school_ends if {
	codes(moment("2027-07-16T17:59:59Z", "friday", 1079)) == set()
	codes(moment("2027-07-19T10:00:00Z", "monday", 600)) == {"too_late"}
}

test_evenings_and_weekends_are_free if {
	codes(moment("2027-07-05T18:00:00Z", "monday", 1080)) == {"time_of_day_not_allowed"}
	codes(moment("2027-07-10T10:00:00Z", "saturday", 600)) == {"weekday_not_allowed"}
}

after(last) := {"history": {"jobs_by_subject": 1, "last_job_time": last}}

test_an_hour_lies_between_two_jobs if {
	codes(after("2027-07-05T07:00:00Z")) == set()
	codes(after("2027-07-05T07:00:01Z")) == {"too_soon"}
}

test_thirty_jobs_are_the_most if {
	codes({"history": {"jobs_by_subject": 29}}) == set()
	codes({"history": {"jobs_by_subject": 30}}) == {"jobs_above_limit"}
}

test_jobs_are_small if {
	change := {"cost": {"epsilon_nano": 200000001}, "derived": {"noise_multiplier_ppm": 999999}}
	codes(change) == {"price_above_limit", "noise_below_limit"}
}

test_other_purposes_and_small_cohorts_are_denied if {
	change := {"job": {"purpose": "research", "clients_per_round": 19}}
	codes(change) == {"purpose_not_allowed", "cohort_below_limit"}
}

test_what_the_budget_cannot_pay_is_denied if {
	codes({"cost": {"budget_epsilon_nano_after": 8000000001}}) == {"over_budget"}
}

test_three_run_at_a_time if {
	obligation := {"type": "max_parallel_jobs", "value": 3}
	obligation in summer_school.decision.obligations with input as job
}
