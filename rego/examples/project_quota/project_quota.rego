# METADATA
# title: Project quota
# description: |
#   Two projects, each for its own purposes and within the share the owner gave it. One job takes at
#   most a quarter of a share; the owner agrees to each job that meets the last fifth of it.
package examples.project_quota

import data.gateway.answer
import data.gateway.approvals
import data.gateway.bounds
import data.gateway.people
import data.gateway.price
import data.gateway.quota

projects := {
	"cardiology": {"clinical_research"},
	"drug_safety": {"clinical_research", "quality_improvement"},
}

default purposes := set()

purposes := projects[input.job.project]

deny contains people.project_in(object.keys(projects))

deny contains people.purpose_in(purposes)

deny contains quota.project_with_share

deny contains quota.job_percent_of_project_at_most(25)

deny contains price.over_budget

deny contains bounds.noise_at_least_ppm(500000)

deny contains bounds.clients_per_round_at_least(10)

approve contains approvals.by("owner", 1, 72) if not plenty

plenty if {
	share := input.budget.project_quota
	share.remaining_epsilon_nano * 5 >= share.epsilon_nano
}

# METADATA
# entrypoint: true
decision := answer.of(deny, approve, set())
