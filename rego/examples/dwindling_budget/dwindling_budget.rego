# METADATA
# title: Dwindling budget
# description: |
#   The less is left, the more people must agree: nobody in the first half of the budget, the owner
#   from there on, and an auditor too for the last fifth. No job may take more than a tenth.
package examples.dwindling_budget

import data.gateway.answer
import data.gateway.approvals
import data.gateway.bounds
import data.gateway.people
import data.gateway.price

deny contains people.purpose_in({"research"})

deny contains price.job_percent_of_budget_at_most(10)

deny contains price.over_budget

deny contains bounds.noise_at_least_ppm(500000)

deny contains bounds.clients_per_round_at_least(10)

approve contains approvals.by("owner", 1, 48) if not spends_at_most(50)

approve contains approvals.by("auditor", 1, 48) if not spends_at_most(80)

# With this job the population will have spent at most so many per cent of its budget.
spends_at_most(percent) if {
	after := input.cost.budget_epsilon_nano_after
	after * 100 <= percent * input.budget.epsilon_nano
}

# METADATA
# entrypoint: true
decision := answer.of(deny, approve, set())
