# METADATA
# title: Numbers
# description: |
#   Comparisons that are true only for numbers. In Rego a text is greater than every number, so a
#   bare `>=` would let "NaN" pass. Also decimals for people, made without float arithmetic.
package gateway.number

# METADATA
# description: True when both are numbers and the value does not exceed the limit.
at_most(value, limit) if {
	is_number(value)
	is_number(limit)
	value <= limit
}

# METADATA
# description: True when both are numbers and the value reaches the limit.
at_least(value, limit) if {
	is_number(value)
	is_number(limit)
	value >= limit
}

# METADATA
# description: Whole billionths as a decimal text, 1500000000 as "1.5".
billionths(value) := _decimal(value, 1000000000)

# METADATA
# description: Whole millionths as a decimal text, 50000 as "0.05".
millionths(value) := _decimal(value, 1000000)

default _decimal(_, _) := "an unknown amount"

_decimal(value, unit) := text if {
	is_number(value)
	value >= 0
	rest := value % unit
	whole := (value - rest) / unit
	digits := substring(sprintf("%v", [unit + rest]), 1, -1)
	text := trim_right(trim_right(sprintf("%v.%v", [whole, digits]), "0"), ".")
}
