# METADATA
# title: University course
# description: |
#   Students train small models for coursework in term time; each has a share of ε = 1 and ten
#   jobs. The owner agrees to what costs more than ε = 0.5. Results leave after a day.
package examples.university_course

import data.gateway.answer
import data.gateway.approvals
import data.gateway.bounds
import data.gateway.obligations
import data.gateway.people
import data.gateway.price
import data.gateway.quota
import data.gateway.windows

deny contains people.purpose_in({"coursework"})

deny contains people.role_in({"researcher"})

deny contains bounds.rounds_at_most(100)

deny contains bounds.clients_per_round_at_least(20)

deny contains bounds.noise_at_least_ppm(500000)

deny contains bounds.parameters_at_most(100000)

deny contains price.over_budget

deny contains quota.jobs_at_most(10)

deny contains quota.epsilon_at_most(price.one)

deny contains windows.weekday_in({"monday", "tuesday", "wednesday", "thursday", "friday"})

approve contains approvals.by_above(500 * price.milli, "owner", 1, 72)

oblige contains obligations.outputs({"weights", "receipt"})

oblige contains obligations.release_delay_hours(24)

# METADATA
# entrypoint: true
decision := answer.of(deny, approve, oblige)
