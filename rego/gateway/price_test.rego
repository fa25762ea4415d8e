package gateway.price_test

import data.gateway.price

test_the_cap_itself_is_kept if {
	not price.job_at_most(price.one) with input.cost.epsilon_nano as 1000000000
}

test_a_billionth_more_is_denied_in_words if {
	denial := price.job_at_most(price.one) with input.cost.epsilon_nano as 1000000001
	denial.message == "the job costs ε = 1.000000001; at most 1 is allowed"
	denial.limit == 1000000000
}

test_the_largest_prices_compare_exactly if {
	most := 9223372036854775806
	not price.job_at_most(most) with input.cost.epsilon_nano as most
	price.job_at_most(most) with input.cost.epsilon_nano as most + 1
}

test_share_of_the_budget if {
	cost := {"cost": {"epsilon_nano": 800000000}, "budget": {"epsilon_nano": 8000000000}}
	not price.job_percent_of_budget_at_most(10) with input as cost
	price.job_percent_of_budget_at_most(9) with input as cost
}

test_spent_counts_this_job if {
	not price.spent_at_most(price.one) with input.cost.budget_epsilon_nano_after as 1000000000
	price.spent_at_most(price.one) with input.cost.budget_epsilon_nano_after as 1000000001
}

test_over_budget if {
	within := {
		"cost": {"budget_epsilon_nano_after": 8},
		"budget": {"epsilon_nano": 8},
	}
	not price.over_budget with input as within
	price.over_budget with input as object.union(within, {"budget": {"epsilon_nano": 7}})
}
