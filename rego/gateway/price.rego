# METADATA
# title: Price caps
# description: |
#   Limits on privacy loss, in whole billionths of ε: 1000000000 is ε = 1. A price that is missing
#   or no number is above every cap.
package gateway.price

import data.gateway.denial
import data.gateway.number

# METADATA
# description: ε = 1 in billionths, so that a policy may say 2 * price.one.
one := 1000000000

# METADATA
# description: ε = 0.001 in billionths.
milli := 1000000

# METADATA
# description: A job alone may cost at most this much.
job_at_most(limit) := _above(
	"price_above_limit",
	"the job costs",
	object.get(input, ["cost", "epsilon_nano"], null),
	limit,
)

# METADATA
# description: A job alone may cost at most so many per cent of the whole budget.
job_percent_of_budget_at_most(percent) := denial.of(
	"price_above_share",
	"epsilon",
	message,
	percent,
) if {
	not _within_percent(percent)
	message := sprintf("the job costs more than %v per cent of the whole budget", [percent])
}

# METADATA
# description: All jobs together, this one included, may have spent at most this much.
spent_at_most(limit) := _above(
	"spent_above_limit",
	"with this job the population would have spent",
	object.get(input, ["cost", "budget_epsilon_nano_after"], null),
	limit,
)

# METADATA
# description: A denial when the job does not fit into the budget; the accountant says so too.
over_budget := denial.of("over_budget", "epsilon", message, limit) if {
	limit := object.get(input, ["budget", "epsilon_nano"], null)
	after := object.get(input, ["cost", "budget_epsilon_nano_after"], null)
	not number.at_most(after, limit)
	message := "the job does not fit into the budget of the population"
}

_above(code, subject, value, limit) := denial.of(code, "epsilon", message, limit) if {
	not number.at_most(value, limit)
	message := sprintf("%v ε = %v; at most %v is allowed", [
		subject,
		number.billionths(value),
		number.billionths(limit),
	])
}

_within_percent(percent) if {
	is_number(percent)
	is_number(input.cost.epsilon_nano)
	is_number(input.budget.epsilon_nano)
	input.cost.epsilon_nano * 100 <= percent * input.budget.epsilon_nano
}
