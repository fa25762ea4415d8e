# Every rule of the library denies what it cannot read. OPA evaluates the arguments of a negated call
# before the negation, so `not f(input.typo)` is undefined and not true: read first, negate after.
package gateway.gateway_test

import data.gateway.bounds
import data.gateway.people
import data.gateway.price
import data.gateway.quota
import data.gateway.windows

moment := "2026-01-31T08:00:00Z"

denials contains bounds.rounds_at_most(1)

denials contains bounds.clients_per_round_at_least(1)

denials contains bounds.clients_per_round_at_most(1)

denials contains bounds.local_epochs_at_most(1)

denials contains bounds.parameters_at_most(1)

denials contains bounds.noise_at_least_ppm(1)

denials contains bounds.sampling_rate_at_most_ppm(1)

denials contains bounds.algorithm_in({"dp_fedavg"})

denials contains bounds.kind_in({"train"})

denials contains bounds.layers_in({"Dense"})

denials contains people.purpose_in({"teaching"})

denials contains people.role_in({"researcher"})

denials contains people.organisation_in({"default"})

denials contains price.job_at_most(1)

denials contains price.job_percent_of_budget_at_most(1)

denials contains price.spent_at_most(1)

denials contains price.over_budget

denials contains quota.jobs_at_most(1)

denials contains quota.epsilon_at_most(1)

denials contains quota.hours_between_jobs(1)

denials contains windows.weekday_in({"monday"})

denials contains windows.minutes_between(0, 1440)

denials contains windows.not_before(moment)

denials contains windows.not_after(moment)

test_an_empty_input_breaks_every_rule if {
	count({denial.code | some denial in denials}) == 24 with input as {}
}

test_texts_are_no_numbers if {
	words := {
		"job": {
			"rounds": "NaN",
			"clients_per_round": "NaN",
			"local_epochs": "NaN",
			"model": {"parameters": "NaN"},
		},
		"cost": {"epsilon_nano": "NaN", "budget_epsilon_nano_after": "NaN"},
		"budget": {"epsilon_nano": "NaN"},
		"derived": {"noise_multiplier_ppm": "NaN", "sampling_rate_ppm": "NaN"},
	}
	count({denial.code | some denial in denials}) == 24 with input as words
}
