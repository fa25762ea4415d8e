# METADATA
# title: Price cap
# description: |
#   A researcher may teach or do research for at most ε = 2 a job; two jobs run at a time.
package examples.price_cap

import data.gateway.answer
import data.gateway.bounds
import data.gateway.obligations
import data.gateway.people
import data.gateway.price

deny contains people.purpose_in({"research", "teaching"})

deny contains price.job_at_most(2 * price.one)

deny contains price.over_budget

deny contains bounds.noise_at_least_ppm(300000)

deny contains bounds.clients_per_round_at_least(10)

# METADATA
# entrypoint: true
decision := answer.of(deny, set(), {obligations.max_parallel_jobs(2)})
