package gateway.bounds_test

import data.gateway.bounds

test_the_limit_itself_is_kept if {
	not bounds.rounds_at_most(10) with input.job.rounds as 10
	not bounds.clients_per_round_at_least(10) with input.job.clients_per_round as 10
	not bounds.clients_per_round_at_most(10) with input.job.clients_per_round as 10
	not bounds.local_epochs_at_most(1) with input.job.local_epochs as 1
	not bounds.parameters_at_most(7850) with input.job.model.parameters as 7850
	not bounds.noise_at_least_ppm(500000) with input.derived.noise_multiplier_ppm as 500000
	not bounds.sampling_rate_at_most_ppm(10) with input.derived.sampling_rate_ppm as 10
}

test_one_beyond_is_named_with_value_and_limit if {
	denial := bounds.rounds_at_most(10) with input.job.rounds as 11
	denial == {
		"code": "rounds_above_limit",
		"field": "rounds",
		"message": "rounds is 11; at most 10 is allowed",
		"limit": 10,
	}
	bounds.clients_per_round_at_least(10) with input.job.clients_per_round as 9
	bounds.clients_per_round_at_most(10) with input.job.clients_per_round as 11
	bounds.local_epochs_at_most(1) with input.job.local_epochs as 2
	bounds.parameters_at_most(7850) with input.job.model.parameters as 7851
	bounds.sampling_rate_at_most_ppm(10) with input.derived.sampling_rate_ppm as 11
}

test_noise_is_told_as_a_decimal if {
	denial := bounds.noise_at_least_ppm(500000) with input.derived.noise_multiplier_ppm as 50000
	denial.message == "noise_multiplier is 0.05; at least 0.5 is needed"
}

test_only_listed_names if {
	not bounds.algorithm_in({"dp_fedavg"}) with input.job.algorithm as "dp_fedavg"
	bounds.algorithm_in({"dp_fedavg"}) with input.job.algorithm as "dp_fedsgd"
	not bounds.kind_in({"train"}) with input.request.kind as "train"
	bounds.kind_in({"train"}) with input.request.kind as "query"
}

test_every_layer_must_be_listed if {
	not bounds.layers_in({"Dense"}) with input.job.model.layers as ["Dense", "Dense"]
	bounds.layers_in({"Dense"}) with input.job.model.layers as ["Dense", "Conv2D"]
}
