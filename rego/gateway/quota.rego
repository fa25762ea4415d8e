# METADATA
# title: Quotas
# description: |
#   Limits on what one researcher takes of a population over time. What came before is read from the
#   input; without it the limit counts as reached.
package gateway.quota

import data.gateway.denial
import data.gateway.number

# METADATA
# description: At most so many jobs of one researcher, this one included.
jobs_at_most(limit) := denial.of("jobs_above_limit", "subject", message, limit) if {
	not _jobs_within(limit)
	message := sprintf("at most %v jobs of one researcher are allowed", [limit])
}

# METADATA
# description: One researcher may have spent at most this much, this job included, in billionths.
epsilon_at_most(limit) := denial.of("quota_above_limit", "epsilon", message, limit) if {
	not _epsilon_within(limit)
	message := sprintf("one researcher may spend at most ε = %v", [number.billionths(limit)])
}

# METADATA
# description: So many hours must lie between two jobs of one researcher.
hours_between_jobs(hours) := denial.of("too_soon", "request.time", message, hours) if {
	not _rested(hours)
	message := sprintf("%v hours must pass between two jobs of one researcher", [hours])
}

# METADATA
# description: The job must be charged to a project that has a share of the budget.
project_with_share := denial.of("project_without_share", "project", message, null) if {
	not _project_limited
	message := "the job must be charged to a project that has a share of the budget"
}

# METADATA
# description: |
#   A job alone may cost at most so many per cent of its project's share. The share itself is kept by
#   the accountant.
job_percent_of_project_at_most(percent) := denial.of(
	"price_above_project_share",
	"epsilon",
	message,
	percent,
) if {
	not _within_project_percent(percent)
	message := sprintf("the job costs more than %v per cent of its project's share", [percent])
}

_jobs_within(limit) if number.at_most(input.history.jobs_by_subject + 1, limit)

_epsilon_within(limit) if {
	before := input.history.charged_epsilon_nano_by_subject
	number.at_most(before + input.cost.epsilon_nano, limit)
}

_project_limited if input.budget.project_quota.limited == true

_within_project_percent(percent) if {
	is_number(input.cost.epsilon_nano)
	is_number(input.budget.project_quota.epsilon_nano)
	number.at_most(input.cost.epsilon_nano * 100, percent * input.budget.project_quota.epsilon_nano)
}

_rested(_) if input.history.last_job_time == null

_rested(hours) if {
	is_string(input.history.last_job_time)
	last := time.parse_rfc3339_ns(input.history.last_job_time)
	number.at_least(input.request.time_ns, last + (hours * 3600000000000))
}
