package gateway.number_test

import data.gateway.number

test_numbers_compare if {
	number.at_most(1, 1)
	number.at_least(1, 1)
	not number.at_most(2, 1)
	not number.at_least(1, 2)
}

test_nothing_else_is_a_number if {
	every value in ["NaN", "2", null, true, [2], {"two": 2}] {
		not number.at_most(value, 1)
		not number.at_least(value, 1)
		not number.at_most(1, value)
		not number.at_least(1, value)
	}
}

test_decimals_are_exact if {
	number.billionths(2267177095700) == "2267.1770957"
	number.billionths(1) == "0.000000001"
	number.billionths(1000000000) == "1"
	number.billionths(0) == "0"
	number.millionths(50000) == "0.05"
	number.millionths(10000000) == "10"
}

test_what_is_no_amount_is_said_so if {
	number.billionths("NaN") == "an unknown amount"
	number.billionths(null) == "an unknown amount"
	number.millionths(-1) == "an unknown amount"
}
