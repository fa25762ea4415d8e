# METADATA
# title: Approvals
# description: People who must agree before a job may start.
package gateway.approvals

import data.gateway.number

# METADATA
# description: So many people of a role must agree within so many hours.
by(role, count_of_people, hours) := {
	"role": role,
	"count": count_of_people,
	"within_hours": hours,
}

# METADATA
# description: |
#   As `by`, but only for jobs that cost more than this, in billionths of ε. Undefined for others:
#   write `approve contains approvals.by_above(…)`, never `{approvals.by_above(…)}`.
by_above(limit, role, count_of_people, hours) := by(role, count_of_people, hours) if {
	not number.at_most(object.get(input, ["cost", "epsilon_nano"], null), limit)
}
