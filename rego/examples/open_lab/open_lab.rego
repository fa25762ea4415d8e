# METADATA
# title: Open lab
# description: |
#   Anybody may do research or teach, at up to ε = 6 a job, with noise that is worth its name.
package examples.open_lab

import data.gateway.answer
import data.gateway.bounds
import data.gateway.people
import data.gateway.price

deny contains people.purpose_in({"research", "teaching"})

deny contains price.job_at_most(6 * price.one)

deny contains bounds.noise_at_least_ppm(300000)

deny contains bounds.clients_per_round_at_least(2)

# METADATA
# entrypoint: true
decision := answer.of(deny, set(), set())
