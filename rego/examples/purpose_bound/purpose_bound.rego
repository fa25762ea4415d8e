# METADATA
# title: Bound to a purpose
# description: |
#   Each purpose has a price of its own: more may be spent on the safety of a drug than on a lesson.
#   What is not in the table is not allowed at all.
package examples.purpose_bound

import data.gateway.answer
import data.gateway.bounds
import data.gateway.people
import data.gateway.price

caps := {
	"teaching": 500 * price.milli,
	"research": 2 * price.one,
	"drug_safety": 3 * price.one,
}

deny contains people.purpose_in(object.keys(caps))

deny contains price.job_at_most(caps[input.job.purpose])

deny contains price.over_budget

deny contains bounds.noise_at_least_ppm(500000)

deny contains bounds.clients_per_round_at_least(10)

# METADATA
# entrypoint: true
decision := answer.plain(deny)
