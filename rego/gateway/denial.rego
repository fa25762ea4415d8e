# METADATA
# title: Denials
# description: One rule that fired, in the form the gateway reads.
package gateway.denial

# METADATA
# description: |
#   A denial: stable code, the field of the request that is at fault, a sentence, and the limit.
of(code, field, message, limit) := {
	"code": code,
	"field": field,
	"message": message,
	"limit": limit,
}
