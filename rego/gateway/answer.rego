# METADATA
# title: Answers
# description: |
#   The whole decision from its parts. It allows exactly when nothing denies; the gateway itself
#   waits for approvals and enforces obligations. Give it sets that rules with `contains` make: a
#   set written in braces is undefined as soon as one member is, and so is the whole decision.
package gateway.answer

# METADATA
# description: Allow unless a rule denies.
plain(deny) := of(deny, set(), set())

# METADATA
# description: Allow unless a rule denies, with people to ask and obligations to keep.
of(deny, approvals, obligations) := {
	"allow": count(deny) == 0,
	"deny": deny,
	"approvals": approvals,
	"obligations": obligations,
}
