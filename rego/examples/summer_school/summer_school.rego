# METADATA
# title: Summer school
# description: |
#   Open for two weeks in July, on working days from eight to six (UTC). A student sends a job an
#   hour at most, and thirty in all; each is small. Three run at a time.
package examples.summer_school

import data.gateway.answer
import data.gateway.bounds
import data.gateway.obligations
import data.gateway.people
import data.gateway.price
import data.gateway.quota
import data.gateway.windows

deny contains windows.not_before("2027-07-05T00:00:00Z")

deny contains windows.not_after("2027-07-17T00:00:00Z")

deny contains windows.weekday_in({"monday", "tuesday", "wednesday", "thursday", "friday"})

deny contains windows.minutes_between(8 * 60, 18 * 60)

deny contains people.purpose_in({"summer_school"})

deny contains price.job_at_most(200 * price.milli)

deny contains price.over_budget

deny contains quota.hours_between_jobs(1)

deny contains quota.jobs_at_most(30)

deny contains bounds.clients_per_round_at_least(20)

deny contains bounds.noise_at_least_ppm(1000000)

# METADATA
# entrypoint: true
decision := answer.of(deny, set(), {obligations.max_parallel_jobs(3)})
