# METADATA
# title: Bounds
# description: |
#   Limits on the shape of a job. Each is a denial unless the job provably keeps the limit: a field
#   that is missing or no number does not.
package gateway.bounds

import data.gateway.denial
import data.gateway.number

# METADATA
# description: At most so many rounds.
rounds_at_most(limit) := _too_large(
	"rounds_above_limit",
	"rounds",
	object.get(input, ["job", "rounds"], null),
	limit,
)

# METADATA
# description: At least so many clients expected in a round; a small cohort hides nobody.
clients_per_round_at_least(limit) := _too_small(
	"cohort_below_limit",
	"clients_per_round",
	object.get(input, ["job", "clients_per_round"], null),
	limit,
)

# METADATA
# description: At most so many clients expected in a round.
clients_per_round_at_most(limit) := _too_large(
	"cohort_above_limit",
	"clients_per_round",
	object.get(input, ["job", "clients_per_round"], null),
	limit,
)

# METADATA
# description: At most so many passes over a client's own data in a round.
local_epochs_at_most(limit) := _too_large(
	"local_epochs_above_limit",
	"algorithm.local_epochs",
	object.get(input, ["job", "local_epochs"], null),
	limit,
)

# METADATA
# description: At most so many trainable parameters.
parameters_at_most(limit) := _too_large(
	"parameters_above_limit",
	"model.architecture",
	object.get(input, ["job", "model", "parameters"], null),
	limit,
)

# METADATA
# description: Noise multiplier of at least so many millionths; 500000 is 0.5.
noise_at_least_ppm(limit) := denial.of("noise_below_limit", "noise_multiplier", message, limit) if {
	value := object.get(input, ["derived", "noise_multiplier_ppm"], null)
	not number.at_least(value, limit)
	message := sprintf("noise_multiplier is %v; at least %v is needed", [
		number.millionths(value),
		number.millionths(limit),
	])
}

# METADATA
# description: At most so many millionths of the clients in a round; 100000 is one in ten.
sampling_rate_at_most_ppm(limit) := denial.of(
	"sampling_rate_above_limit",
	"clients_per_round",
	message,
	limit,
) if {
	value := object.get(input, ["derived", "sampling_rate_ppm"], null)
	not number.at_most(value, limit)
	message := sprintf("a round takes a share of %v of the clients; at most %v is allowed", [
		number.millionths(value),
		number.millionths(limit),
	])
}

# METADATA
# description: Only these algorithms.
algorithm_in(names) := denial.of("algorithm_not_allowed", "algorithm.name", message, names) if {
	not object.get(input, ["job", "algorithm"], null) in names
	message := sprintf("the algorithm must be one of: %v", [concat(", ", names)])
}

# METADATA
# description: Only these kinds of request, out of train, evaluate and query.
kind_in(names) := denial.of("kind_not_allowed", "kind", message, names) if {
	not object.get(input, ["request", "kind"], null) in names
	message := sprintf("the kind must be one of: %v", [concat(", ", names)])
}

# METADATA
# description: Only these kinds of layers in the model.
layers_in(names) := denial.of("layer_not_allowed", "model.architecture", message, names) if {
	not _only_layers(names)
	message := sprintf("every layer must be one of: %v", [concat(", ", names)])
}

_only_layers(names) if {
	is_array(input.job.model.layers)
	every layer in input.job.model.layers {
		layer in names
	}
}

_too_large(code, field, value, limit) := denial.of(code, field, message, limit) if {
	not number.at_most(value, limit)
	message := sprintf("%v is %v; at most %v is allowed", [field, value, limit])
}

_too_small(code, field, value, limit) := denial.of(code, field, message, limit) if {
	not number.at_least(value, limit)
	message := sprintf("%v is %v; at least %v is needed", [field, value, limit])
}
