# METADATA
# title: Hospital
# description: |
#   Clinical researchers of two houses train on patients' records. The data owner agrees to every
#   job, and an auditor too when it costs more than ε = 1. Patients are kept apart while a model
#   is trained, and results stay in the house for two days.
package examples.hospital

import data.gateway.answer
import data.gateway.approvals
import data.gateway.bounds
import data.gateway.obligations
import data.gateway.people
import data.gateway.price

deny contains people.purpose_in({"clinical_research", "quality_improvement"})

deny contains people.organisation_in({"st_mary", "university_hospital"})

deny contains people.role_in({"researcher"})

deny contains bounds.clients_per_round_at_least(50)

deny contains bounds.sampling_rate_at_most_ppm(200000)

deny contains bounds.noise_at_least_ppm(800000)

deny contains price.job_at_most(2 * price.one)

deny contains price.over_budget

approve contains approvals.by("owner", 1, 72)

approve contains approvals.by_above(price.one, "auditor", 1, 72)

oblige contains obligations.isolation("per_client_group")

oblige contains obligations.release_delay_hours(48)

# METADATA
# entrypoint: true
decision := answer.of(deny, approve, oblige)
